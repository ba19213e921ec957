// The promise of the program: a request gives the same tokens and log-probabilities, bit for bit,
// alone and in any batch, at any number of threads, however its prompt is cut into chunks.
#include <gtest/gtest.h>

#include "tests/engine/invariance.h"
#include "tests/support/temp_directory.h"

namespace quern::engine::test {
namespace {

using quern::test::TempDirectory;

void check_tiny(const EngineOptions& options) {
  const auto requests = [] { return make_requests(32, 300, 8, 2000); };
  const EngineRun alone = run(options, kAlone, requests());
  EXPECT_EQ(alone.stats.shared_steps, 0U);
  const Schedule rows[] = {
      {.num_threads = 1},
      {.num_threads = 2, .enable_prefix_caching = false},
      {.num_threads = 2, .max_num_batched_tokens = 77, .max_num_seqs = 8},  // cuts inside blocks
      {.num_threads = 2, .together = false},
  };
  for (const Schedule& row : rows) {
    SCOPED_TRACE(::testing::Message()
                 << "threads " << row.num_threads << " budget " << row.max_num_batched_tokens
                 << " caching " << row.enable_prefix_caching << " together " << row.together);
    const EngineRun other = run(options, row, requests());
    expect_identical(alone, other);
    if (row.together) {
      EXPECT_GE(other.stats.max_requests_in_step, 8U);
    }
    if (row.enable_prefix_caching && !row.together) {
      EXPECT_GT(other.stats.prefix_cache_hits, 0U);
    }
  }
}

TEST(BatchInvariance, TinyBf16) {
  EngineOptions options;
  options.model_dir = kTinyModel;
  check_tiny(options);
}

class BatchInvarianceMxfp4 : public ::testing::TestWithParam<kernels::MoeBackend> {};

TEST_P(BatchInvarianceMxfp4, Tiny) {
  const TempDirectory directory;
  quantize(kTinyModel, directory / "quantized");
  EngineOptions options;
  options.model_dir = directory / "quantized";
  options.moe_backend = GetParam();
  check_tiny(options);
}

INSTANTIATE_TEST_SUITE_P(, BatchInvarianceMxfp4,
                         ::testing::Values(kernels::MoeBackend::kNative,
                                           kernels::MoeBackend::kEmulation),
                         [](const auto& info) {
                           return info.param == kernels::MoeBackend::kNative ? "Native"
                                                                             : "Emulation";
                         });

// 2 layers of the real hidden size; the budget cuts the longest prompt inside and behind its first
// block. Batches up to 64: slow/large_batch_test.cc.
void check_wide(const EngineOptions& options) {
  for (const int batch : {1, 6}) {
    const auto requests = [&] { return make_requests(batch, 140, 3, 500); };
    const Schedule chunks{.num_threads = 2, .max_num_batched_tokens = 100};
    SCOPED_TRACE(batch);
    expect_identical(run(options, kAlone, requests()), run(options, chunks, requests()));
  }
}

TEST(BatchInvariance, Hidden6144) {
  const TempDirectory directory;
  write_model(directory / "model", wide_config());
  EngineOptions options;
  options.model_dir = directory / "model";
  check_wide(options);

  quantize(directory / "model", directory / "quantized");
  options.model_dir = directory / "quantized";
  check_wide(options);
}

// One sequence of max_model_len must fit, or the length is reduced when nobody asked for it.
TEST(EngineSizes, CacheAndLength) {
  EngineOptions options;
  options.model_dir = kTinyModel;
  options.num_kv_blocks = 3;
  EXPECT_EQ(Engine(options).max_model_len(), 3 * 128);

  options.max_model_len = 300;
  EXPECT_EQ(Engine(options).max_model_len(), 300);

  options.max_model_len = 400;
  try {
    Engine engine(options);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("To serve at least one request with the models's max seq len (400), "),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("384"), std::string::npos) << text;
  }
  options.num_kv_blocks = 0;
  options.max_model_len = 4097;
  EXPECT_THROW(Engine{options}, Error);
  options.max_model_len = 0;
  options.max_num_batched_tokens = 10;
  EXPECT_THROW(Engine{options}, Error) << "256 sequences cannot decode with a budget of 10";
}

}  // namespace
}  // namespace quern::engine::test
