#include "quern/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "quern/base/error.h"

namespace quern::engine {
namespace {

struct Case {
  SamplingParams params;
  std::vector<TokenId> prompt;
  std::vector<TokenId> output;
  std::vector<TokenId> eos;
  RandomKey key;

  SamplingInput input() const { return {params, prompt, output, eos, key}; }
};

SampledToken sample(const std::vector<float>& logits, const Case& c) {
  return Sampler(static_cast<int>(logits.size())).sample(logits, c.input());
}

Case greedy() {
  Case c;
  c.params.temperature = 0;
  return c;
}

// The plain version: sorts everything, in the order of vLLM v1/sample/sampler.py.
// Returns the probability of each token in the final distribution.
std::vector<double> naive_distribution(std::vector<float> logits, const Case& c) {
  const SamplingParams& p = c.params;
  const float masked = -std::numeric_limits<float>::infinity();
  const auto at = [&](TokenId t) -> float& { return logits[static_cast<std::size_t>(t)]; };
  if (!p.allowed_token_ids.empty()) {
    for (std::size_t t = 0; t < logits.size(); ++t) {
      if (std::ranges::find(p.allowed_token_ids, static_cast<TokenId>(t)) ==
          p.allowed_token_ids.end()) {
        logits[t] = masked;
      }
    }
  }
  for (const auto& word : p.bad_words) {
    std::vector<TokenId> text = c.output;
    text.push_back(word.back());
    if (text.size() >= word.size() &&
        std::equal(word.begin(), word.end(),
                   text.end() - static_cast<std::ptrdiff_t>(word.size()))) {
      at(word.back()) = masked;
    }
  }
  if (static_cast<int>(c.output.size()) < p.min_tokens) {
    for (const TokenId t : c.eos) at(t) = masked;
    for (const TokenId t : p.stop_token_ids) at(t) = masked;
  }
  for (const auto& [token, bias] : p.logit_bias) at(token) += bias;
  std::map<TokenId, int> seen, counts;
  for (const TokenId t : c.prompt) ++seen[t];
  for (const TokenId t : c.output) ++seen[t], ++counts[t];
  for (const auto& [t, n] : seen) {
    at(t) = at(t) > 0 ? at(t) / p.repetition_penalty : at(t) * p.repetition_penalty;
  }
  for (const auto& [t, n] : counts) {
    at(t) -= p.frequency_penalty * static_cast<float>(n);
    at(t) -= p.presence_penalty;
  }
  for (float& l : logits) l /= p.temperature;
  const float top = *std::ranges::max_element(logits);
  std::vector<double> probability;
  for (const float l : logits) probability.push_back(std::exp(static_cast<double>(l - top)));
  for (double& x : probability) {
    if (x < static_cast<double>(p.min_p)) x = 0;
  }
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order,
                           [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  if (p.top_k > 0 && static_cast<std::size_t>(p.top_k) < order.size()) {
    const float kth = logits[order[static_cast<std::size_t>(p.top_k) - 1]];
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] < kth) probability[i] = 0;
    }
  }
  double total = std::accumulate(probability.begin(), probability.end(), 0.0);
  double above = 0;
  if (p.top_p < 1) {
    for (const std::size_t i : order) {
      const double x = probability[i];
      if (above >= static_cast<double>(p.top_p) * total) probability[i] = 0;
      above += x;
    }
    total = std::accumulate(probability.begin(), probability.end(), 0.0);
  }
  for (double& x : probability) x /= total;
  return probability;
}

TEST(Sampler, GreedyTakesTheFirstMaximum) {
  EXPECT_EQ(sample({1, 3, 2, 3}, greedy()).token, 1);
  EXPECT_EQ(sample({-5, -7}, greedy()).token, 0);
  Case almost = greedy();
  almost.params.temperature = 9e-6F;
  EXPECT_EQ(sample({1, 3, 2, 3}, almost).token, 1);
}

TEST(Sampler, BiasPenaltiesAndMaskMoveTheGreedyChoice) {
  const std::vector<float> logits = {2, 1.5F, 1, -1};
  const struct {
    const char* what;
    Case c;
    TokenId expected;
  } rows[] = {
      {"bias",
       [] {
         Case c = greedy();
         c.params.logit_bias = {{3, 10}};
         return c;
       }(),
       3},
      {"bias is clamped to 100",
       [] {
         Case c = greedy();
         c.params.logit_bias = {{3, 100}, {2, 1000}};
         return c;
       }(),
       2},
      {"repetition counts the prompt",
       [] {
         Case c = greedy();
         c.params.repetition_penalty = 2;
         c.prompt = {0};
         return c;
       }(),
       1},
      {"repetition once per token",
       [] {
         Case c = greedy();
         c.params.repetition_penalty = 1.2F;
         c.prompt = {0, 0, 0};
         return c;
       }(),
       0},
      {"presence ignores the prompt",
       [] {
         Case c = greedy();
         c.params.presence_penalty = 2;
         c.prompt = {0};
         return c;
       }(),
       0},
      {"presence counts the output",
       [] {
         Case c = greedy();
         c.params.presence_penalty = 0.6F;
         c.output = {0};
         return c;
       }(),
       1},
      {"frequency multiplies",
       [] {
         Case c = greedy();
         c.params.frequency_penalty = 0.3F;
         c.output = {0, 0};
         return c;
       }(),
       1},
      {"negative frequency",
       [] {
         Case c = greedy();
         c.params.frequency_penalty = -2;
         c.output = {2};
         return c;
       }(),
       2},
      {"min_tokens masks EOS and stop ids",
       [] {
         Case c = greedy();
         c.params.min_tokens = 1;
         c.params.stop_token_ids = {1};
         c.eos = {0};
         return c;
       }(),
       2},
      {"min_tokens reached",
       [] {
         Case c = greedy();
         c.params.min_tokens = 1;
         c.output = {3};
         c.eos = {0};
         return c;
       }(),
       0},
  };
  for (const auto& row : rows) EXPECT_EQ(sample(logits, row.c).token, row.expected) << row.what;
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity}) {
    EXPECT_THROW(sample({1, bad, 2}, greedy()), Error) << bad;
  }
  Case all_masked = greedy();
  all_masked.params.min_tokens = 1;
  all_masked.eos = {0, 1, 2};
  EXPECT_THROW(sample({1, 2, 3}, all_masked), Error);
}

// Any repetition penalty above 0 is allowed; the largest makes or breaks a logit.
TEST(Sampler, AnyRepetitionPenaltyGivesATokenAndFiniteScores) {
  using enum LogprobsMode;
  for (const float penalty : {1e-45F, 1e-39F, 1e-30F, 1e30F, 3e38F}) {
    for (const LogprobsMode mode :
         {kRawLogprobs, kRawLogits, kProcessedLogprobs, kProcessedLogits}) {
      for (const float temperature : {0.0F, 1e-4F, 1.0F}) {
        for (const float top_p : {0.5F, 1.0F}) {
          Case c;
          c.prompt = {0, 1};
          c.output = {2};
          c.params.repetition_penalty = penalty;
          c.params.temperature = temperature;
          c.params.top_p = top_p;
          c.params.logprobs = 2;
          SCOPED_TRACE(::testing::Message() << penalty << " " << static_cast<int>(mode) << " "
                                            << temperature << " " << top_p);
          const std::vector<float> logits{5, -5, 4, 3, 2};
          const SampledToken sampled = Sampler(5, mode).sample(logits, c.input());
          ASSERT_GE(sampled.token, 0);
          ASSERT_LT(sampled.token, 5);
          ASSERT_TRUE(sampled.logprobs.has_value());
          EXPECT_TRUE(std::isfinite(sampled.logprobs->chosen.logprob));
        }
      }
    }
  }
}

TEST(Sampler, TopKKeepsTies) {
  Case c;
  c.params.top_k = 2;
  std::vector<bool> seen(5);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    c.key.seed = seed;
    seen[static_cast<std::size_t>(sample({1, 3, 2, 2, 0}, c).token)] = true;
  }
  EXPECT_EQ(seen, (std::vector<bool>{false, true, true, true, false}));
}

TEST(Sampler, SmallTemperatureIsRaised) {
  Case c;
  c.params.temperature = 1e-4F;  // as 0.01: a gap of 0.001 is a factor of e^0.1, not of e^10
  int second = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    c.key.seed = seed;
    second += sample({1.001F, 1.0F}, c).token;
  }
  EXPECT_GT(second, 50);
}

// Random logits and parameters: each drawn token is possible in the naive distribution, and it is
// the one that inverting the naive cumulative sum at the same uniform number gives, unless that
// number lies within rounding of a border: 2^-24 relative for each float weight.
TEST(Sampler, AgreesWithTheNaiveSampler) {
  const unsigned seed = 42;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::uniform_real_distribution<float> unit(0, 1);
  int near_border = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::size_t vocab = 2 + random() % 300;
    std::vector<float> logits(vocab);
    for (float& l : logits) l = normal(random);
    const auto token = [&] { return static_cast<TokenId>(random() % vocab); };
    Case c;
    c.params.temperature = 0.1F + 1.9F * unit(random);
    if (random() % 2) c.params.top_p = 0.05F + 0.9F * unit(random);
    if (random() % 2) c.params.top_k = 1 + static_cast<int>(random() % 50);
    if (random() % 3 == 0) c.params.min_p = 0.2F * unit(random);
    if (random() % 2) c.params.repetition_penalty = 0.5F + unit(random);
    if (random() % 2) c.params.frequency_penalty = unit(random);
    if (random() % 2) c.params.presence_penalty = unit(random);
    if (random() % 2) c.params.logit_bias = {{0, 2.5F}};
    for (std::size_t i = random() % 20; i > 0; --i) c.prompt.push_back(token());
    for (std::size_t i = random() % 20; i > 0; --i) c.output.push_back(token());
    if (random() % 4 == 0) {  // a repeated id counts once
      for (int i = 0; i < 5; ++i) c.params.allowed_token_ids.push_back(token());
      c.params.allowed_token_ids.push_back(c.params.allowed_token_ids.front());
    }
    if (random() % 4 == 0) {
      c.params.bad_words = {{static_cast<TokenId>(vocab - 1)}, {token(), token()}};
      c.output.push_back(c.params.bad_words[1][0]);
    }
    c.key = {random(), random()};
    if (!c.params.allowed_token_ids.empty() && !c.params.bad_words.empty()) {
      bool some = false;  // every token masked is refused: RefusesLogitsThatAreNotFinite
      for (const TokenId t : c.params.allowed_token_ids) {
        some = some || (t != c.params.bad_words[0][0] && t != c.params.bad_words[1][1]);
      }
      if (!some) continue;
    }

    const auto probability = naive_distribution(logits, c);
    const TokenId drawn = sample(logits, c).token;
    ASSERT_GT(probability[static_cast<std::size_t>(drawn)], 0.0) << "round " << round;
    std::vector<std::size_t> order(vocab);
    std::iota(order.begin(), order.end(), std::size_t{0});
    if (c.params.top_p < 1) {
      std::ranges::stable_sort(
          order, [&](std::size_t a, std::size_t b) { return probability[a] > probability[b]; });
    }
    const double u = uniform(c.key, c.output.size());
    double sum = 0;
    bool certain = true;
    TokenId expected = -1;
    for (const std::size_t i : order) {
      sum += probability[i];
      certain = certain && std::abs(sum - u) > 1e-5;
      if (expected < 0 && sum > u) expected = static_cast<TokenId>(i);
    }
    if (!certain) {
      ++near_border;
      continue;
    }
    ASSERT_EQ(drawn, expected) << "round " << round;
  }
  EXPECT_LT(near_border, 30);
}

// 20,000 draws; a count is binomial, so it is within 5 standard deviations of its mean (failure by
// chance: 6e-7 a token; the seed is fixed, so it is the same run every time).
TEST(Sampler, FrequenciesFollowTheDistribution) {
  const std::vector<float> logits = {0.1F, 2.0F, 1.0F, -1.0F, 1.5F, -4.0F, 1.9F};
  for (const float top_p : {1.0F, 0.8F}) {
    Case c;
    c.params.temperature = 0.9F;
    c.params.top_p = top_p;
    c.key.seed = 12345;
    const auto probability = naive_distribution(logits, c);
    constexpr int kDraws = 20000;
    std::vector<int> counts(logits.size());
    Sampler sampler(static_cast<int>(logits.size()));
    for (int i = 0; i < kDraws; ++i) {
      c.key.request = static_cast<std::uint64_t>(i);
      ++counts[static_cast<std::size_t>(sampler.sample(logits, c.input()).token)];
    }
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double mean = kDraws * probability[i];
      const double deviation = std::sqrt(mean * (1 - probability[i]));
      EXPECT_NEAR(counts[i], mean, 5 * deviation) << "top_p " << top_p << " token " << i;
    }
  }
}

TEST(Sampler, LogprobsAreOfTheRawLogitsMostProbableFirst) {
  Case c = greedy();
  c.params.logprobs = 3;
  c.params.logit_bias = {{3, 50}};
  c.params.repetition_penalty = 2;
  c.prompt = {1};
  const SampledToken result = sample({1, 2, 2, 0}, c);
  EXPECT_EQ(result.token, 3);
  const double log_sum = std::log(std::exp(1.0) + 2 * std::exp(2.0) + 1);
  ASSERT_TRUE(result.logprobs);
  EXPECT_EQ(result.logprobs->chosen.token_id, 3);
  EXPECT_NEAR(result.logprobs->chosen.logprob, -log_sum, 1e-6);
  ASSERT_EQ(result.logprobs->top.size(), 3U);
  const TokenId order[] = {1, 2, 0};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(result.logprobs->top[i].token_id, order[i]);
  EXPECT_NEAR(result.logprobs->top[0].logprob, 2 - log_sum, 1e-6);

  EXPECT_EQ(result.logprobs->rank, 4);
  c.params.logprob_token_ids = {0, 3};
  const auto wanted = sample({1, 2, 2, 0}, c).logprobs->top;
  ASSERT_EQ(wanted.size(), 2U);
  EXPECT_EQ(wanted[0].token_id, 0);
  EXPECT_EQ(wanted[1].token_id, 3);
  c.params.logprob_token_ids.clear();

  c.params.logprobs = 0;
  EXPECT_TRUE(sample({1, 2, 2, 0}, c).logprobs->top.empty());
  c.params.logprobs = -1;
  EXPECT_EQ(sample({1, 2, 2, 0}, c).logprobs->top.size(), 4U);
  c.params.logprobs.reset();
  EXPECT_FALSE(sample({1, 2, 2, 0}, c).logprobs);
}

// --logprobs-mode against the naive sampler: raw numbers are those of the logits as they came in,
// processed ones of the final distribution. Weights are floats: 2^-23 relative each, and a logit of
// up to 30 carries its own rounding.
TEST(Sampler, LogprobsModes) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> logits(40);
    for (float& l : logits) l = normal(random);
    Case c;
    c.params.temperature = round % 5 == 0 ? 0.0F : 0.7F;
    if (round % 2) c.params.top_p = 0.8F;
    if (round % 3 == 0) c.params.top_k = 7;
    if (round % 7 == 0) c.params.min_p = 0.05F;
    c.params.frequency_penalty = 0.5F;
    c.params.logit_bias = {{3, 2}};
    c.params.logprobs = -1;
    c.output = {1, 1, 5};
    c.key = {random(), 0};
    Case plain;
    plain.params.temperature = 1;
    const auto raw = naive_distribution(logits, plain);
    Case last = c;  // greedy: penalties and biases only
    if (c.params.temperature == 0)
      last.params = plain.params, last.params.frequency_penalty = 0.5F,
      last.params.logit_bias = {{3, 2}};
    const auto processed = naive_distribution(logits, last);
    const auto in = [&](LogprobsMode mode) {
      return *Sampler(40, mode).sample(logits, c.input()).logprobs;
    };
    for (const auto& [mode, expected] : {std::pair(LogprobsMode::kRawLogprobs, &raw),
                                         std::pair(LogprobsMode::kProcessedLogprobs, &processed)}) {
      const TokenLogprobs found = in(mode);
      std::size_t possible = 0;
      for (const double p : *expected) possible += p > 0 ? 1U : 0U;
      ASSERT_EQ(found.top.size(), possible) << "round " << round;
      for (const TokenLogprob& token : found.top) {
        const double p = (*expected)[static_cast<std::size_t>(token.token_id)];
        ASSERT_NEAR(static_cast<double>(token.logprob), std::log(p), 1e-4) << "round " << round;
      }
    }
    for (const TokenLogprob& token : in(LogprobsMode::kRawLogits).top) {
      ASSERT_EQ(token.logprob, logits[static_cast<std::size_t>(token.token_id)]);
    }
    const TokenLogprobs cooked = in(LogprobsMode::kProcessedLogits);
    const TokenLogprobs logprobs = in(LogprobsMode::kProcessedLogprobs);
    ASSERT_EQ(cooked.top.size(), logprobs.top.size());
    const float shift = cooked.top[0].logprob - logprobs.top[0].logprob;
    for (std::size_t i = 0; i < cooked.top.size(); ++i) {
      ASSERT_EQ(cooked.top[i].token_id, logprobs.top[i].token_id);
      ASSERT_NEAR(cooked.top[i].logprob - logprobs.top[i].logprob, shift, 1e-4F);
    }
    const float scale = c.params.temperature == 0 ? 1 : c.params.temperature;
    const TokenId first = cooked.top[0].token_id;
    const float own = logits[static_cast<std::size_t>(first)] + (first == 3 ? 2.0F : 0.0F) -
                      (first == 1   ? 1.0F
                       : first == 5 ? 0.5F
                                    : 0.0F);
    ASSERT_NEAR(cooked.top[0].logprob, own / scale, 1e-4F);
  }
}

TEST(Sampler, AForcedTokenIsTakenWithItsOwnLogprob) {
  Case c;
  c.params.top_k = 1;
  c.params.logprobs = 1;
  SamplingInput input = c.input();
  input.forced = 2;
  const SampledToken result = Sampler(3).sample(std::vector<float>{1, 3, 2}, input);
  EXPECT_EQ(result.token, 2);
  EXPECT_EQ(result.logprobs->chosen.token_id, 2);
  EXPECT_EQ(result.logprobs->rank, 2);
  EXPECT_EQ(result.logprobs->top[0].token_id, 1);
}

TEST(Sampler, ScratchOfOneCallDoesNotReachTheNext) {
  Case penalized = greedy();
  penalized.params.frequency_penalty = 1;
  penalized.params.repetition_penalty = 1.5F;
  penalized.prompt = {2};
  penalized.output = {0, 0, 1};
  Sampler sampler(3);
  const std::vector<float> logits = {1, 2, 3};
  const TokenId first = sampler.sample(logits, penalized.input()).token;
  sampler.sample(logits, greedy().input());
  EXPECT_EQ(sampler.sample(logits, penalized.input()).token, first);
  Case clean = greedy();
  clean.params.frequency_penalty = 1;
  EXPECT_EQ(sampler.sample(logits, clean.input()).token, 2);
}

}  // namespace
}  // namespace quern::engine
