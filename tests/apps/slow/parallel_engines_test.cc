// The engine with the model in 2, 4 and 8 processes against one: a minute.
#include "tests/apps/parallel_engine.h"

namespace quern::engine::test {
namespace {

TEST(ParallelEngines, ChunksPrefixesAndPreemption) {
  const quern::test::TempDirectory directory;
  write_model(directory / "bf16", shared_config());
  quantize(directory / "bf16", directory / "mxfp4");
  for (const char* model : {"bf16", "mxfp4"}) {
    check_chunks_prefixes_preemption(
        directory / model, {{2, false}, {2, true}, {4, false}, {4, true}, {8, false}, {8, true}});
  }
}

TEST(ParallelEngines, Pictures) {
  for (const int size : {2, 4}) {
    for (const bool data : {false, true}) check_pictures(size, data);
  }
}

}  // namespace
}  // namespace quern::engine::test
