// Requests with pictures give the same log-probabilities, bit for bit, however their prompts are
// cut, whoever runs beside them, and whatever is cached. Chunks of every length:
// slow/image_chunks_test.cc.
#include <gtest/gtest.h>

#include "tests/engine/image_requests.h"
#include "tests/engine/invariance.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern::engine::test {
namespace {

using quern::test::TempDirectory;

constexpr std::int64_t kEnlarged = 224 * 224;

EngineOptions tiny() {
  EngineOptions options;
  options.model_dir = kTinyModel;
  options.kv_cache_bytes = 64 << 20;
  options.max_logprobs = -1;
  return options;
}

TEST(ImageInvariance, ChunksOfAnyLength) {
  ImageRequests make(kEnlarged);
  ASSERT_EQ(two_image_request(make).prompt.size(), 332U);
  const EngineRun whole = run(tiny(), kAlone, {two_image_request(make)});
  ASSERT_EQ(whole.results[0].logprobs[0].top.size(), 2048U);
  for (const int chunk : {1, 13, 63, 64, 65, 91, 128, 155, 300}) {
    SCOPED_TRACE(chunk);
    const Schedule schedule{.num_threads = 2, .max_num_batched_tokens = chunk, .max_num_seqs = 1};
    const EngineRun cut = run(tiny(), schedule, {two_image_request(make)});
    expect_identical(whole, cut);
    EXPECT_EQ(cut.stats.images_encoded, 2U);
  }
  EngineOptions unsplit = tiny();
  unsplit.images.disable_chunked_mm_input = true;
  expect_identical(whole, run(unsplit, {.max_num_batched_tokens = 70, .max_num_seqs = 1},
                              {two_image_request(make)}));
}

// The features of one picture do not depend on the others, nor on whether they come from the cache.
TEST(ImageInvariance, SeveralImagesAreWhatEachIsAlone) {
  ImageRequests make(kEnlarged);
  const EngineRun fresh = run(tiny(), kAlone, {two_image_request(make)});
  std::vector<GenerationRequest> requests;
  for (const char* name : {"blue_square_84.png", "red_circle_112.png"}) {
    requests.push_back(all_logits_request(name, 1));
    make.append_image(name, requests.back());
    ImageRequests::append_text(10, 7, requests.back());
  }
  // Once for the features alone, once more with its own blocks cached.
  requests.push_back(two_image_request(make));
  requests.push_back(two_image_request(make));
  requests.back().id = "again";
  const EngineRun warm = run(tiny(), {.together = false}, std::move(requests));
  EXPECT_TRUE(same_result(warm.results[2], fresh.results[0]));
  EXPECT_TRUE(same_result(warm.results[3], fresh.results[0]));
  EXPECT_EQ(warm.results[3].last.cached_tokens, 256);
  EXPECT_EQ(warm.stats.images_encoded, 2U);
}

std::vector<GenerationRequest> mixed(ImageRequests& make) {
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 16; ++i) {
    GenerationRequest request = all_logits_request(std::to_string(i), 4);
    request.sampling.logprobs = 5;
    if (i % 2 == 1) {
      request.sampling.temperature = 0.9F;
      request.sampling.seed = i;
    }
    make.append_mixture(i, request);
    requests.push_back(std::move(request));
  }
  return requests;
}

void check_mixed(EngineOptions options) {
  ImageRequests make;
  const EngineRun alone = run(options, kAlone, mixed(make));
  const Schedule rows[] = {
      {.num_threads = 2},
      {.num_threads = 2, .max_num_batched_tokens = 37, .max_num_seqs = 8},
      {.num_threads = 1, .enable_prefix_caching = false},
      {.num_threads = 2, .together = false},
  };
  for (const Schedule& row : rows) {
    SCOPED_TRACE(::testing::Message() << row.num_threads << " " << row.max_num_batched_tokens);
    const EngineRun other = run(options, row, mixed(make));
    expect_identical(alone, other);
    EXPECT_EQ(other.stats.images_encoded, 4U);
  }
}

TEST(ImageInvariance, MixedRequestsBf16) { check_mixed(tiny()); }

TEST(ImageInvariance, MixedRequestsMxfp4) {
  const TempDirectory directory;
  quantize(kTinyModel, directory / "quantized");
  EngineOptions options = tiny();
  options.model_dir = directory / "quantized";
  check_mixed(options);
}

// The case published with m3-tiny: greedy tokens behind a picture.
TEST(ImageInvariance, AnswersThePublishedCase) {
  ImageRequests make;
  GenerationRequest request = all_logits_request("a", 8);
  request.sampling.skip_special_tokens = false;
  make.append_text(
      "]~!b[]~b]system\nYour model is m3-tiny, a small test model in the MiniMax-M3 format.\n\n"
      "<thinking_instructions>\nThinking mode: adaptive. Think when it helps.\n"
      "</thinking_instructions>[e~[\n]~b]developer\nYou are a helpful assistant.[e~[\n]~b]user\n",
      request);
  make.append_image("green_triangle_112.png", request);
  make.append_text("What is in this picture?[e~[\n]~b]ai\n", request);
  ASSERT_EQ(request.prompt.size(), 85U);
  const EngineRun answer = run(tiny(), kAlone, {std::move(request)});
  EXPECT_TRUE(answer.results[0].text.starts_with("</mm:think>a green triangle[e~["))
      << answer.results[0].text;
}

// Else every request with a picture would fail in the middle of a step.
TEST(ImageInvariance, PatchesThatTheTowerCannotTakeAreRefusedAtStart) {
  const TempDirectory directory;
  const auto model = directory / "model";
  std::filesystem::copy(kTinyModel, model);
  write_file(model / "preprocessor_config.json", R"({"patch_size": 16})");
  EngineOptions options = tiny();
  options.model_dir = model;
  EXPECT_NE(quern::test::error_message([&] {
              Engine engine(options);
            }).find("preprocessor_config.json cuts patches of 16 x 16 pixels"),
            std::string::npos);
  options.images.language_model_only = true;
  EXPECT_EQ(Engine(options).image_config(), nullptr);
}

}  // namespace
}  // namespace quern::engine::test
