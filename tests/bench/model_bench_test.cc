// Measurements of models/m3-tiny: what is run and counted, not how long it takes.
#include "quern/bench/model_bench.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/kernels/factory.h"
#include "quern/model/text_model.h"
#include "tests/support/error_message.h"
#include "tests/support/tiny_model.h"

namespace quern::bench {
namespace {

ModelBenchOptions tiny_options() {
  ModelBenchOptions options;
  options.model_dir = test::kTinyModel;
  options.threads = 1;
  options.repetitions = 2;
  options.probe_seconds = 0.001;
  options.max_step_tokens = 64;
  options.max_batch_size = 3;
  return options;
}

void expect_measured(const BenchResult& result) {
  ASSERT_EQ(result.seconds.size(), 2U);
  ASSERT_EQ(result.bounds.size(), 2U);
  EXPECT_GT(std::ranges::min(result.seconds), 0);
  EXPECT_GT(std::ranges::min(result.bounds), 0);
  EXPECT_GT(result.tokens_per_second(), 0);
  EXPECT_GE(result.spread(), 0);
}

TEST(ModelBench, APromptTakesAsManyStepsAsItNeeds) {
  ModelBench bench(tiny_options());
  const BenchResult result = bench.run({.prompt_tokens = 150});
  EXPECT_EQ(result.test.name(), "pp150");
  EXPECT_EQ(result.test.tokens(), 150);
  EXPECT_EQ(result.steps, 3);  // 64, 64, 22
  expect_measured(result);
  EXPECT_EQ(bench.threads(), 1);
  EXPECT_EQ(bench.summary().type, "minimax_m3_vl BF16");
  EXPECT_EQ(bench.summary().parameters, 4700864U);
}

TEST(ModelBench, DecodedSequencesStandBehindTheirContexts) {
  ModelBench bench(tiny_options());
  const BenchResult near = bench.run({.decode_tokens = 4, .batch_size = 3});
  const BenchResult far = bench.run({.decode_tokens = 4, .context = 1000, .batch_size = 3});
  EXPECT_EQ(near.test.name(), "tg4 b3");
  EXPECT_EQ(far.test.name(), "tg4 @ d1000 b3");
  EXPECT_EQ(far.test.tokens(), 12);
  EXPECT_EQ(far.steps, 4);
  expect_measured(far);
  // Of the KV cache, 2 KV heads of 32 and an index of 32 in BF16: the dense layer's keys and values
  // are read whole, of 4 sparse layers 4 blocks and the index. Each of 3 sequences, at 4 positions.
  const double dense = 4 * 1000 * 256.0, index = 4 * 1000 * 64.0 * 4;
  EXPECT_GT(far.cost.bytes - near.cost.bytes, 3 * (dense + index));
}

// Tokens and routing follow from the seed, so two runs cost the same.
TEST(ModelBench, TheSameSeedRunsTheSameSteps) {
  const BenchTest test{.decode_tokens = 3, .context = 600, .batch_size = 2};
  ModelBenchOptions options = tiny_options();
  const BenchResult first = ModelBench(options).run(test);
  const BenchResult second = ModelBench(options).run(test);
  options.seed = 2;
  const BenchResult other = ModelBench(options).run(test);
  EXPECT_EQ(first.cost.bytes, second.cost.bytes);
  EXPECT_NE(first.cost.bytes, other.cost.bytes);  // other experts
}

// Of each step: 5 layers, the first of them dense.
TEST(ModelBench, ProfileHasEveryOperation) {
  ModelBenchOptions options = tiny_options();
  options.clock = Clock::kCpu;
  options.profile = true;
  const BenchResult result = ModelBench(options).run({.decode_tokens = 3, .context = 1000});
  const std::int64_t steps = 3 * 2;
  const std::pair<Operation, std::int64_t> kCalls[] = {
      {Operation::kEmbed, 1},        {Operation::kNorm, 11},  {Operation::kProjectQkv, 5},
      {Operation::kSelectBlocks, 4}, {Operation::kAttend, 5}, {Operation::kOutputProjection, 5},
      {Operation::kMlp, 1},          {Operation::kRoute, 4},  {Operation::kMoe, 4},
      {Operation::kLogits, 1}};
  double sum = 0;
  for (const auto& [operation, calls] : kCalls) {
    const OperationProfile& entry = result.profile[static_cast<std::size_t>(operation)];
    EXPECT_EQ(entry.time.calls, steps * calls) << operation_name(operation);
    EXPECT_GT(entry.bound_seconds, 0) << operation_name(operation);
    sum += entry.time.seconds;
  }
  EXPECT_LE(sum, result.seconds[0] + result.seconds[1]);
}

TEST(ModelBench, WhatTheModelCannotHoldIsRefused) {
  const ModelBench bench(tiny_options());
  EXPECT_EQ(test::error_message([&] { bench.check({.decode_tokens = 8, .context = 4090}); }),
            "tg8 @ d4090: 4098 positions are needed, the model has max_position_embeddings 4096");
}

// Timing changes nothing: the same logits, bit for bit, behind the same random cache.
TEST(TimedBackend, ComputesWhatTheOtherComputes) {
  const Checkpoint checkpoint = Checkpoint::open(test::kTinyModel);
  const ModelConfig config = parse_model_config(checkpoint.config());
  const auto logits_of = [&](kernels::Backend& backend, std::uint64_t seed) {
    model::TextModel model(checkpoint, config, backend, {8, 1});
    const auto cache = backend.create_kv_cache(model.kv_cache_spec(9));
    backend.fill_kv_random(*cache, seed);
    const std::int32_t tokens[] = {5}, table[] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
    std::vector<float> logits(static_cast<std::size_t>(model.vocab_size()));
    const model::SequenceChunk chunks[] = {{tokens, 1100, table}};
    model.forward(chunks, *cache, logits);
    return logits;
  };
  const auto plain = kernels::make_cpu_backend({.num_threads = 1});
  TimedBackend timed(kernels::make_cpu_backend({.num_threads = 1}), Clock::kCpu, 1);
  const std::vector<float> expected = logits_of(*plain, 1);
  EXPECT_TRUE(std::ranges::all_of(expected, [](float value) { return std::isfinite(value); }));
  EXPECT_EQ(logits_of(timed, 1), expected);
  EXPECT_NE(logits_of(*plain, 2), expected);
}

TEST(Median, OfOddAndEvenCounts) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
}

}  // namespace
}  // namespace quern::bench
