#include "quern/engine/engine_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <limits>
#include <memory>
#include <random>
#include <thread>

#include "tests/engine/collector.h"
#include "tests/engine/fake_runner.h"
#include "tests/support/error_message.h"
#include "tests/support/tiny_model_tokenizer.h"

namespace quern::engine {
namespace {

using quern::test::tiny_model_tokenizer;
using test::Collector;
using test::FakeRunner;
using test::Generated;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kFakeVocab = 300;

EngineLoopOptions small_options(int num_blocks = 64) {
  EngineLoopOptions options;
  options.scheduler = {.max_num_batched_tokens = 200, .max_num_seqs = 16};
  options.num_kv_blocks = num_blocks;
  options.max_model_len = std::min(num_blocks, 8) * kBlockTokens;
  return options;
}

struct Rig {
  explicit Rig(const EngineLoopOptions& options = small_options())
      : runner(options.num_kv_blocks, kFakeVocab), loop(options, runner, tiny_model_tokenizer()) {}

  Generated generate(GenerationRequest request) {
    const std::string id = request.id;
    collector.submit(loop, std::move(request));
    return collector.wait(id);
  }

  FakeRunner runner;
  Collector collector;
  EngineLoop loop;  // stops before the rest goes
};

GenerationRequest request(const std::string& id, int num_prompt_tokens, int max_tokens,
                          unsigned seed = 1) {
  std::mt19937 random(seed);
  GenerationRequest result;
  result.id = id;
  for (int i = 0; i < num_prompt_tokens; ++i) {
    result.prompt.push_back(static_cast<TokenId>(random() % kFakeVocab));
  }
  result.sampling.temperature = 0;
  result.sampling.max_tokens = max_tokens;
  return result;
}

// 32 requests of all kinds; every fourth shares a prefix of 200 tokens.
std::vector<GenerationRequest> mixed_requests() {
  std::vector<GenerationRequest> requests;
  for (unsigned i = 0; i < 32; ++i) {
    auto r = request("r" + std::to_string(i), 1 + static_cast<int>(i * 37 % 500),
                     20 + static_cast<int>(i % 7) * 25, i);
    if (i % 4 == 0) {
      const auto common = request("", 200, 1, 99).prompt;
      r.prompt.insert(r.prompt.begin(), common.begin(), common.end());
    }
    r.sampling.logprobs = static_cast<int>(i % 3);
    if (i % 2 == 1) {
      r.sampling.temperature = 0.8F;
      r.sampling.top_p = 0.9F;
      r.sampling.seed = i;
    }
    if (i % 5 == 0) r.sampling.frequency_penalty = 0.5F;
    if (i % 5 == 1) r.sampling.repetition_penalty = 1.2F;
    requests.push_back(std::move(r));
  }
  return requests;
}

std::vector<Generated> run_alone() {
  std::vector<Generated> results;
  for (auto& r : mixed_requests()) {
    Rig rig;
    results.push_back(rig.generate(std::move(r)));
  }
  return results;
}

std::vector<Generated> run_together(Rig& rig) {
  std::vector<std::string> ids;
  for (auto& r : mixed_requests()) {
    ids.push_back(r.id);
    rig.collector.submit(rig.loop, std::move(r));
  }
  std::vector<Generated> results;
  for (const auto& id : ids) results.push_back(rig.collector.wait(id));
  return results;
}

void expect_same(const std::vector<Generated>& a, const std::vector<Generated>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(test::same_result(a[i], b[i])) << "request " << i;
  }
}

TEST(EngineLoop, GreedyFollowsTheModel) {
  Rig rig;
  auto r = request("a", 300, 100);
  auto tokens = r.prompt;
  const Generated result = rig.generate(std::move(r));
  for (int i = 0; i < 100; ++i) {
    const auto logits = rig.runner.expected_logits(tokens);
    tokens.push_back(static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin()));
  }
  EXPECT_EQ(result.tokens, std::vector<TokenId>(tokens.begin() + 300, tokens.end()));
  EXPECT_EQ(result.last.finish_reason, FinishReason::kLength);
  EXPECT_EQ(result.last.prompt_tokens, 300);
  EXPECT_EQ(result.last.completion_tokens, 100);
  EXPECT_EQ(result.num_outputs, 100);
}

// Each prompt token is scored once by what the model says behind the tokens before it, whatever the
// chunks, the cache and preemption do.
TEST(EngineLoop, PromptLogprobsFollowTheModelUnderAnySchedule) {
  auto options = small_options(/*num_blocks=*/9);
  options.scheduler = {.max_num_batched_tokens = 37, .max_num_seqs = 4};
  Rig rig(options);
  Sampler sampler(kFakeVocab);
  const auto scored = [](const std::string& id, const std::string& salt, int max_tokens) {
    auto r = request(id, 300, max_tokens);
    r.sampling.prompt_logprobs = 3;
    r.cache_salt = salt;
    return r;
  };
  std::latch submitted(1);
  rig.runner.before_step = [&](auto) { submitted.wait(); };  // else the first may end alone
  for (const char* id : {"a", "b", "c"}) {
    rig.collector.submit(rig.loop, scored(id, id, 200));
  }
  submitted.count_down();
  const std::vector<TokenId> prompt = request("", 300, 1).prompt;
  for (const char* id : {"a", "b", "c"}) {
    const Generated result = rig.collector.wait(id);
    EXPECT_EQ(result.last.cached_tokens, 0);
    ASSERT_EQ(result.prompt_logprobs.size(), 299U);
    for (std::size_t i = 0; i < 299; ++i) {
      const auto logits = rig.runner.expected_logits(std::span(prompt).first(i + 1));
      const TokenLogprobs expected = sampler.log_probabilities(logits, prompt[i + 1], 3);
      const TokenLogprobs& found = result.prompt_logprobs[i];
      ASSERT_EQ(found.chosen.token_id, prompt[i + 1]);
      ASSERT_EQ(found.chosen.logprob, expected.chosen.logprob);
      ASSERT_EQ(found.rank, expected.rank);
      ASSERT_EQ(found.top.size(), 3U);
      ASSERT_EQ(found.top[2].token_id, expected.top[2].token_id);
    }
  }
  EXPECT_GT(rig.loop.stats().num_preemptions, 0U);
  const Generated again = rig.generate(scored("d", "c", 1));  // what is cached is not read
  EXPECT_EQ(again.last.cached_tokens, 0);
  EXPECT_EQ(again.prompt_logprobs.size(), 299U);
}

// The claim of the folder: results do not depend on company, chunks, blocks, or what is cached.
TEST(EngineLoop, AloneAndTogetherUnderAnyScheduleAreIdentical) {
  const auto alone = run_alone();
  const struct {
    int budget, max_seqs, blocks;
    bool caching;
  } rows[] = {{200, 16, 64, true}, {2048, 32, 256, true}, {2048, 32, 256, false},
              {33, 8, 64, true},   {300, 16, 9, true},    {300, 16, 9, false}};
  for (const auto& row : rows) {
    SCOPED_TRACE(::testing::Message()
                 << row.budget << " " << row.max_seqs << " " << row.blocks << " " << row.caching);
    auto options = small_options(row.blocks);
    options.scheduler = {row.budget, row.max_seqs};
    options.enable_prefix_caching = row.caching;
    Rig rig(options);
    expect_same(run_together(rig), alone);
    const EngineStats stats = rig.loop.stats();
    EXPECT_GT(stats.shared_steps, 0U);
    EXPECT_GT(stats.max_requests_in_step, 2U);
    EXPECT_LE(stats.max_requests_in_step, static_cast<std::uint64_t>(row.max_seqs));
    if (row.blocks == 9) {
      EXPECT_GT(stats.num_preemptions, 0U) << "the row must preempt";
    }
    EXPECT_EQ(stats.kv_cache_usage, 0.0);
    EXPECT_EQ(stats.requests_finished, 32U);
    expect_same(run_together(rig), alone);  // now with a warm cache
    if (row.caching && row.blocks > 9) {
      EXPECT_GT(rig.loop.stats().prefix_cache_hits, stats.prefix_cache_hits);
    }
  }
}

TEST(EngineLoop, SecondRequestTakesTheFirstOnesBlocks) {
  Rig rig;
  EXPECT_EQ(rig.generate(request("a", 300, 1)).last.cached_tokens, 0);
  EXPECT_EQ(rig.generate(request("b", 300, 1)).last.cached_tokens, 256);
  auto salted = request("c", 300, 1);
  salted.cache_salt = "user";
  EXPECT_EQ(rig.generate(std::move(salted)).last.cached_tokens, 0);
  EXPECT_EQ(rig.loop.stats().prefix_cache_queries, 900U);
  EXPECT_EQ(rig.loop.stats().prefix_cache_hits, 256U);
}

TEST(EngineLoop, SeedRepeatsAndRequestsWithoutOneDiffer) {
  Rig rig;
  const auto sampled = [&](const std::string& id, std::optional<std::int64_t> seed) {
    auto r = request(id, 10, 30);
    r.sampling.temperature = 1;
    r.sampling.seed = seed;
    return rig.generate(std::move(r)).tokens;
  };
  const auto a = sampled("a", 5);
  EXPECT_EQ(a, sampled("b", 5));
  EXPECT_NE(a, sampled("c", 6));
  EXPECT_NE(sampled("d", {}), sampled("e", {}));
  // A second choice of a request with seed -2; that a client's -1 is none, the server knows.
  EXPECT_EQ(sampled("f", -1), sampled("g", -1));
}

TEST(EngineLoop, CancellationFreesBlocksAndLeavesOthersAlone) {
  Rig rig;
  rig.runner.before_step = [](auto) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  };
  const Generated expected = Rig().generate(request("b", 150, 300, 2));
  rig.collector.submit(rig.loop, request("a", 100, 900));
  rig.collector.submit(rig.loop, request("b", 150, 300, 2));
  rig.collector.wait_tokens("a", 5);
  rig.loop.cancel("a");
  rig.loop.cancel("unknown");
  const Generated cancelled = rig.collector.wait("a");
  EXPECT_EQ(cancelled.last.finish_reason, FinishReason::kAbort);
  EXPECT_LT(cancelled.tokens.size(), 900U);
  EXPECT_TRUE(test::same_result(rig.collector.wait("b"), expected));
  EXPECT_EQ(rig.loop.stats().kv_cache_usage, 0.0);
  EXPECT_EQ(rig.loop.stats().num_requests_running, 0);
}

TEST(EngineLoop, WaitingRequestCanBeCancelled) {
  auto options = small_options();
  options.scheduler.max_num_seqs = 1;
  Rig rig(options);
  rig.runner.before_step = [](auto) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  rig.collector.submit(rig.loop, request("a", 10, 50));
  rig.collector.submit(rig.loop, request("b", 10, 50));
  rig.loop.cancel("b");
  const Generated b = rig.collector.wait("b");
  EXPECT_EQ(b.last.finish_reason, FinishReason::kAbort);
  EXPECT_TRUE(b.tokens.empty());
  EXPECT_EQ(rig.collector.wait("a").tokens.size(), 50U);
}

TEST(EngineLoop, RefusesWhatCanNeverRun) {
  Rig rig;
  const auto refused = [&](auto change) {
    auto r = request("x", 10, 10);
    r.on_output = [](Output) {};
    change(r);
    return quern::test::error_message([&] { rig.loop.submit(std::move(r)); });
  };
  EXPECT_EQ(refused([](auto& r) { r.prompt.clear(); }),
            "Either prompt or prompt_embeds must be provided and non-empty.");
  EXPECT_THAT(refused([](auto& r) { r.prompt[3] = kFakeVocab; }), HasSubstr("out of vocabulary"));
  EXPECT_THAT(refused([](auto& r) { r.prompt[3] = -1; }), HasSubstr("out of vocabulary"));
  EXPECT_THAT(refused([](auto& r) { r.sampling.top_p = 2; }), StartsWith("top_p must be"));
  EXPECT_EQ(refused([](auto& r) { r.prompt.resize(1020, 1); }),
            "This model's maximum context length is 1024 tokens. However, you requested 10 output "
            "tokens and your prompt contains at least 1020 input tokens, for a total of at least "
            "1030 tokens. Please reduce the length of the input prompt or the number of requested "
            "output tokens. (parameter=input_tokens, value=1020)");
  EXPECT_THAT(refused([](auto& r) { r.sampling.max_tokens = std::numeric_limits<int>::max(); }),
              HasSubstr("maximum context length"));
  EXPECT_EQ(rig.generate(request("ok", 1014, 10)).tokens.size(), 10U) << "exactly the limit";
}

TEST(EngineLoop, IdMustBeUniqueAmongLiveRequests) {
  Rig rig;
  rig.runner.before_step = [](auto) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  rig.collector.submit(rig.loop, request("a", 10, 100));
  auto again = request("a", 10, 1);
  again.on_output = [](Output) {};
  EXPECT_THAT(quern::test::error_message([&] { rig.loop.submit(again); }), HasSubstr("is in use"));
  rig.collector.wait("a");
  EXPECT_EQ(rig.generate(request("a", 10, 1)).tokens.size(), 1U);
}

TEST(EngineLoop, FailingStepEndsAllAndTheEngineIsUnhealthy) {
  Rig rig;
  std::atomic<int> steps = 0;
  std::atomic<bool> both = false;
  rig.runner.before_step = [&](auto) {
    while (!both) std::this_thread::yield();
    if (++steps == 20) throw Error("disk on fire");
  };
  rig.collector.submit(rig.loop, request("a", 10, 100));
  rig.collector.submit(rig.loop, request("b", 10, 100));
  both = true;
  for (const char* id : {"a", "b"}) {
    const Generated result = rig.collector.wait(id);
    EXPECT_EQ(result.last.finish_reason, FinishReason::kError);
    EXPECT_EQ(result.last.error, "disk on fire");
  }
  EXPECT_FALSE(rig.loop.healthy());
  auto late = request("c", 10, 1);
  late.on_output = [](Output) {};
  EXPECT_THAT(quern::test::error_message([&] { rig.loop.submit(late); }),
              HasSubstr("the engine has failed"));
}

// A request whose own parameters leave no token fails alone.
TEST(EngineLoop, FailureOfOneRequestDoesNotTouchOthers) {
  Rig rig;
  const Generated expected = Rig().generate(request("b", 50, 60, 2));
  auto bad = request("a", 10, 100);
  bad.sampling.min_tokens = 1;
  for (TokenId token = 0; token < kFakeVocab; ++token) bad.sampling.stop_token_ids.push_back(token);
  rig.collector.submit(rig.loop, std::move(bad));
  rig.collector.submit(rig.loop, request("b", 50, 60, 2));
  EXPECT_EQ(rig.collector.wait("a").last.finish_reason, FinishReason::kError);
  EXPECT_TRUE(test::same_result(rig.collector.wait("b"), expected));
  EXPECT_TRUE(rig.loop.healthy());
}

TEST(EngineLoop, DrainWaitsThenAborts) {
  Rig rig;
  rig.runner.before_step = [](auto) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  rig.collector.submit(rig.loop, request("a", 10, 10));
  rig.loop.drain(60);
  EXPECT_EQ(rig.collector.wait("a").last.finish_reason, FinishReason::kLength);
  auto late = request("b", 10, 1);
  late.on_output = [](Output) {};
  EXPECT_THAT(quern::test::error_message([&] { rig.loop.submit(late); }),
              HasSubstr("shutting down"));

  Rig slow;
  slow.runner.before_step = [](auto) { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
  slow.collector.submit(slow.loop, request("a", 10, 900));
  slow.loop.drain(0.02);
  EXPECT_EQ(slow.collector.wait("a").last.finish_reason, FinishReason::kAbort);
}

TEST(EngineLoop, DestructionAbortsWhatRuns) {
  Collector collector;
  {
    const auto options = small_options();
    FakeRunner runner(options.num_kv_blocks, kFakeVocab);
    EngineLoop loop(options, runner, tiny_model_tokenizer());
    runner.before_step = [](auto) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
    collector.submit(loop, request("a", 10, 900));
    collector.submit(loop, request("b", 10, 900));
  }
  EXPECT_EQ(collector.wait("a").last.finish_reason, FinishReason::kAbort);
  EXPECT_EQ(collector.wait("b").last.finish_reason, FinishReason::kAbort);
}

TEST(EngineLoop, CallbackMaySubmitAndCancel) {
  Rig rig;
  auto first = request("a", 10, 3);
  std::atomic<bool> chained = false;
  first.on_output = [&](Output output) {
    rig.loop.cancel("nobody");
    if (output.finish_reason) {
      rig.collector.submit(rig.loop, request("a", 20, 4));  // the same id again
      chained = true;
    }
  };
  rig.loop.submit(std::move(first));
  while (!chained) std::this_thread::yield();
  EXPECT_EQ(rig.collector.wait("a").tokens.size(), 4U);
}

TEST(EngineLoop, ThrowingCallbackEndsItsRequestOnly) {
  Rig rig;
  auto bad = request("a", 10, 500);
  std::atomic<bool> ended = false;
  bad.on_output = [&](Output output) {
    if (output.finish_reason) {
      ended = true;
      return;
    }
    throw Error("client gone");
  };
  rig.loop.submit(std::move(bad));
  EXPECT_EQ(rig.generate(request("b", 10, 20)).tokens.size(), 20U);
  while (!ended) std::this_thread::yield();
  EXPECT_TRUE(rig.loop.healthy());
}

// Four client threads submit, cancel and look at statistics at once.
TEST(EngineLoop, ManyThreads) {
  Rig rig;
  std::vector<std::thread> clients;
  std::atomic<int> finished = 0;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 15; ++i) {
        const std::string id = std::to_string(t) + "-" + std::to_string(i);
        rig.collector.submit(rig.loop, request(id, 1 + 13 * i, 12, static_cast<unsigned>(i)));
        if (i % 3 == 0) rig.loop.cancel(id);
        EXPECT_LE(rig.loop.stats().kv_cache_usage, 1.0);
        if (i % 2 == 0) rig.collector.wait(id);
      }
      for (int i = 0; i < 15; ++i) {
        const Generated result = rig.collector.wait(std::to_string(t) + "-" + std::to_string(i));
        if (result.last.finish_reason == FinishReason::kLength) {
          EXPECT_EQ(result.tokens.size(), 12U);
        }
        ++finished;
      }
    });
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(finished, 60);
  EXPECT_EQ(rig.loop.stats().requests_finished, 60U);
}

// ---- images

EngineLoopOptions image_options(int budget, int num_blocks = 64) {
  auto options = small_options(num_blocks);
  options.scheduler.max_num_batched_tokens = budget;
  options.scheduler.max_num_seqs = std::min(budget, 16);
  options.encoder_cache_tokens = options.scheduler.max_encoder_tokens = 120;
  return options;
}

// Placeholders are ordinary tokens here; the features decide.
GenerationRequest image_request(const std::string& id, std::vector<ImageInput> images,
                                int num_prompt_tokens = 300, int max_tokens = 3) {
  auto result = request(id, num_prompt_tokens, max_tokens, 5);
  result.sampling.logprobs = 3;
  result.images = std::move(images);
  return result;
}

TEST(EngineLoop, FeaturesTakeThePlaceOfTokensForEveryChunkLength) {
  const std::vector<ImageInput> images{test::fake_image(37, 100, 1), test::fake_image(137, 90, 2)};
  Generated first;
  for (int budget = 1; budget <= 300; ++budget) {
    Rig rig(image_options(budget));
    auto r = image_request("a", images);
    auto tokens = r.prompt;
    const Generated result = rig.generate(std::move(r));
    if (budget == 1) {
      first = result;
      for (int i = 0; i < 3; ++i) {
        const auto logits = rig.runner.expected_logits(tokens, images);
        tokens.push_back(static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin()));
      }
      EXPECT_EQ(result.tokens, std::vector<TokenId>(tokens.begin() + 300, tokens.end()));
    }
    EXPECT_TRUE(test::same_result(result, first)) << budget;
    EXPECT_EQ(rig.runner.encoded, 2) << budget;
  }
}

TEST(EngineLoop, AnImageIsEncodedOnceForAllWhoShowIt) {
  Rig rig(image_options(200));
  for (const char* id : {"a", "b", "c", "d"}) {
    rig.collector.submit(rig.loop, image_request(id, {test::fake_image(10, 100, 1)}));
  }
  for (const char* id : {"a", "b", "c", "d"}) rig.collector.wait(id);
  EXPECT_EQ(rig.runner.encoded, 1);
  EXPECT_EQ(rig.generate(image_request("e", {test::fake_image(10, 100, 1)})).last.cached_tokens,
            256);
  EXPECT_EQ(rig.generate(image_request("f", {test::fake_image(11, 100, 1)})).last.cached_tokens, 0)
      << "another place";
  EXPECT_EQ(rig.runner.encoded, 1);
  const Generated other = rig.generate(image_request("g", {test::fake_image(10, 100, 2)}));
  EXPECT_EQ(other.last.cached_tokens, 0) << "another image behind the same tokens";
  EXPECT_EQ(rig.runner.encoded, 2);
  EXPECT_EQ(rig.loop.stats().images_encoded, 2U);
}

// A segment of a video: runs of placeholders with text between, one encoding, for every chunk
// length and when the features are dropped between two runs.
TEST(EngineLoop, RunsOfOneSegmentShareItsFeatures) {
  std::vector<ImageInput> runs;
  for (int i = 0; i < 3; ++i) {
    ImageInput run = test::fake_image(20 + 60 * i, 90, 1);
    run.num_tokens = 30;
    run.first_row = 30 * i;
    runs.push_back(run);
  }
  Generated first;
  for (int budget = 1; budget <= 300; budget += budget < 20 ? 1 : 7) {
    Rig rig(image_options(budget));
    auto r = image_request("a", runs);
    auto tokens = r.prompt;
    const Generated result = rig.generate(std::move(r));
    if (budget == 1) {
      first = result;
      for (int i = 0; i < 3; ++i) {
        const auto logits = rig.runner.expected_logits(tokens, runs);
        tokens.push_back(static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin()));
      }
      EXPECT_EQ(result.tokens, std::vector<TokenId>(tokens.begin() + 300, tokens.end()));
    }
    EXPECT_TRUE(test::same_result(result, first)) << budget;
    EXPECT_EQ(rig.runner.encoded, 1) << budget;
  }
  // Another image of 120 rows fills the cache while one is between its runs.
  Rig rig(image_options(25));
  rig.collector.submit(rig.loop, image_request("a", runs));
  rig.collector.submit(rig.loop, image_request("b", {test::fake_image(0, 120, 2)}));
  EXPECT_TRUE(test::same_result(rig.collector.wait("a"), first));
  rig.collector.wait("b");
  // The same rows of another run are another content for the prefix cache.
  auto shifted = runs;
  for (ImageInput& run : shifted) run.first_row = (run.first_row + 30) % 90;
  EXPECT_EQ(rig.generate(image_request("c", shifted)).last.cached_tokens, 0);
  EXPECT_EQ(rig.generate(image_request("d", runs)).last.cached_tokens, 256);
}

TEST(EngineLoop, WhatCannotBeEncodedIsRefused) {
  Rig rig(image_options(200));
  auto r = image_request("a", {test::fake_image(10, 121, 1)});
  r.on_output = [](Output) {};
  EXPECT_THAT(quern::test::error_message([&] { rig.loop.submit(r); }),
              HasSubstr("an image item with length 121, which exceeds the pre-allocated encoder "
                        "cache size 120"));
}

// The tower would throw in a step, which ends the engine.
TEST(EngineLoop, AnImageLargerThanTheTowerIsRefused) {
  auto options = image_options(200);
  options.max_segment_patches = 2 * 6 * 8;
  options.segment_steps = 2;
  Rig rig(options);
  const auto submit = [&](const char* id, int t, int h, int w) {
    ImageInput image = test::fake_image(10, 100, 1);
    auto patches = std::make_shared<vision::ImagePatches>(*image.patches);
    patches->grid_t = t;
    patches->grid_h = h;
    patches->grid_w = w;
    image.patches = std::move(patches);
    return quern::test::error_message(
        [&] { rig.collector.submit(rig.loop, image_request(id, {image})); });
  };
  EXPECT_THAT(submit("a", 1, 10, 10),
              HasSubstr("an image item of 100 patches in a segment, the vision tower takes at most "
                        "96."));
  EXPECT_EQ(submit("b", 1, 12, 8), "");
  EXPECT_EQ(submit("c", 5, 6, 8), "") << "segments of two steps";
  rig.collector.wait("b");
  rig.collector.wait("c");
}

// Requests with images in every schedule, with little room for images and blocks.
TEST(EngineLoop, ImagesAloneAndTogetherUnderAnyScheduleAreIdentical) {
  const auto requests = [] {
    std::vector<GenerationRequest> all;
    std::mt19937 random(20261124);
    for (int i = 0; i < 24; ++i) {
      std::vector<ImageInput> images;
      int at = static_cast<int>(random() % 60);
      for (std::uint64_t k = random() % 4; k > 0 && at < 350; --k) {
        const unsigned name = static_cast<unsigned>(random() % 5);
        images.push_back(test::fake_image(at, 20 + static_cast<int>(name) * 25, name));
        at += 20 + static_cast<int>(name) * 25 + static_cast<int>(random() % 40);
      }
      auto r = image_request(std::to_string(i), images, at + 1 + static_cast<int>(random() % 90),
                             10 + static_cast<int>(random() % 60));
      if (i % 2 == 1) {
        r.sampling.temperature = 0.8F;
        r.sampling.seed = i;
      }
      all.push_back(std::move(r));
    }
    return all;
  };
  std::vector<Generated> alone;
  for (auto& r : requests()) {
    Rig rig(image_options(2048));
    alone.push_back(rig.generate(std::move(r)));
  }
  const struct {
    int budget, blocks;
    bool caching, whole;
  } rows[] = {{2048, 256, true, false}, {2048, 256, false, false}, {50, 64, true, false},
              {17, 64, true, false},    {300, 9, true, false},     {300, 9, false, false},
              {130, 9, true, true}};
  for (const auto& row : rows) {
    SCOPED_TRACE(::testing::Message() << row.budget << " " << row.blocks << " " << row.caching);
    auto options = image_options(row.budget, row.blocks);
    options.enable_prefix_caching = row.caching;
    options.scheduler.disable_chunked_mm_input = row.whole;
    Rig rig(options);
    for (int round = 0; round < 2; ++round) {  // the second with warm caches
      for (auto& r : requests()) rig.collector.submit(rig.loop, std::move(r));
      std::vector<Generated> together;
      for (int i = 0; i < 24; ++i) together.push_back(rig.collector.wait(std::to_string(i)));
      expect_same(together, alone);
    }
    if (row.blocks == 9) {
      EXPECT_GT(rig.loop.stats().num_preemptions, 0U) << "the row must preempt";
    }
  }
}

TEST(EngineLoop, CancellationGivesTheImagesBack) {
  Rig rig(image_options(20));
  rig.runner.before_step = [](auto) {
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  };
  for (int i = 0; i < 10; ++i) {
    rig.collector.submit(rig.loop,
                         image_request("a", {test::fake_image(0, 120, static_cast<unsigned>(i))}));
    std::this_thread::sleep_for(std::chrono::microseconds(300 * i));
    rig.loop.cancel("a");
    rig.collector.wait("a");
  }
  const Generated result = rig.generate(image_request("b", {test::fake_image(0, 120, 99)}));
  EXPECT_EQ(result.tokens.size(), 3U) << "the whole cache was free again";
}

TEST(FakeRunner, NoticesAWrongBlockTable) {
  FakeRunner runner(4, 8);
  std::vector<TokenId> tokens(130, 1);
  std::vector<float> logits(8), other(8);
  const BlockId right[] = {0, 1};
  const BlockId wrong[] = {2, 1};
  runner.run({{{.token_ids = tokens, .block_table = right}}}, logits);
  EXPECT_EQ(logits, runner.expected_logits(tokens));
  tokens.push_back(2);
  const std::span<const TokenId> last(&tokens.back(), 1);
  runner.run({{{.token_ids = last, .start_position = 130, .block_table = wrong}}}, other);
  EXPECT_NE(other, runner.expected_logits(tokens));
  runner.run({{{.token_ids = last, .start_position = 130, .block_table = right}}}, other);
  EXPECT_EQ(other, runner.expected_logits(tokens));
}

}  // namespace
}  // namespace quern::engine
