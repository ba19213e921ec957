// Every chunk length from 1 to 300 over a prompt with two pictures; a minute.
#include <gtest/gtest.h>

#include "tests/engine/image_requests.h"
#include "tests/engine/invariance.h"
#include "tests/support/temp_directory.h"

namespace quern::engine::test {
namespace {

void check_chunks(const std::filesystem::path& model) {
  EngineOptions options;
  options.model_dir = model;
  options.kv_cache_bytes = 16 << 20;
  options.max_logprobs = -1;
  ImageRequests make(224 * 224);
  const EngineRun whole = run(options, kAlone, {two_image_request(make)});
  for (int chunk = 1; chunk <= 300; ++chunk) {
    SCOPED_TRACE(chunk);
    expect_identical(whole, run(options, {.max_num_batched_tokens = chunk, .max_num_seqs = 1},
                                {two_image_request(make)}));
  }
}

TEST(ImageChunks, EveryLengthBf16) { check_chunks(kTinyModel); }

TEST(ImageChunks, EveryLengthMxfp4) {
  const quern::test::TempDirectory directory;
  quantize(kTinyModel, directory / "quantized");
  check_chunks(directory / "quantized");
}

}  // namespace
}  // namespace quern::engine::test
