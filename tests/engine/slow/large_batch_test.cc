// Batch invariance with batches from 1 to 64 at the real hidden size; minutes.
#include <gtest/gtest.h>

#include "tests/engine/invariance.h"
#include "tests/support/temp_directory.h"

namespace quern::engine::test {
namespace {

void check_batches(const std::filesystem::path& model) {
  EngineOptions options;
  options.model_dir = model;
  const Schedule rows[] = {
      {.num_threads = 1, .enable_prefix_caching = false},
      {.num_threads = 2, .max_num_batched_tokens = 100},
  };
  for (const int batch : {1, 2, 4, 8, 16, 32, 64}) {
    const auto requests = [&] { return make_requests(batch, 140, 4, 500); };
    const EngineRun alone = run(options, kAlone, requests());
    for (const Schedule& row : rows) {
      SCOPED_TRACE(::testing::Message() << "batch " << batch << " threads " << row.num_threads);
      const EngineRun together = run(options, row, requests());
      expect_identical(alone, together);
      EXPECT_GE(together.stats.max_requests_in_step, static_cast<std::uint64_t>(batch / 4));
    }
  }
}

TEST(LargeBatch, Hidden6144Bf16) {
  const quern::test::TempDirectory directory;
  write_model(directory / "model", wide_config());
  check_batches(directory / "model");
}

TEST(LargeBatch, Hidden6144Mxfp4) {
  const quern::test::TempDirectory directory;
  write_model(directory / "model", wide_config());
  quantize(directory / "model", directory / "quantized");
  check_batches(directory / "quantized");
}

}  // namespace
}  // namespace quern::engine::test
