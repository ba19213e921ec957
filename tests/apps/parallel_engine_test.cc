// The promise of the engine with the model in several processes: tokens and log-probabilities of
// one process, bit for bit, in chunks, with cached prefixes, after preemption, with pictures. More
// sizes: slow/parallel_engines_test.cc.
#include "tests/apps/parallel_engine.h"

namespace quern::engine::test {
namespace {

TEST(ParallelEngine, ChunksPrefixesAndPreemption) {
  const quern::test::TempDirectory directory;
  write_model(directory / "bf16", shared_config());
  quantize(directory / "bf16", directory / "mxfp4");
  check_chunks_prefixes_preemption(directory / "mxfp4", {{2, true}});
}

TEST(ParallelEngine, Pictures) { check_pictures(2, true); }

}  // namespace
}  // namespace quern::engine::test
