#include "quern/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "quern/base/error.h"

namespace quern::engine {
namespace {

constexpr float kGreedyBelow = 1e-5F;     // vLLM sampling_params.py: _SAMPLING_EPS
constexpr float kMinTemperature = 0.01F;  // and _MAX_TEMP: smaller ones lose precision
constexpr float kMaxLogitBias = 100.0F;   // OpenAI's range
// Of a logit; one divided by kMinTemperature, and the difference of two of those, stay finite.
constexpr float kLargestLogit = 1e36F;

constexpr double kLeastLogprob = -9999;  // vLLM's value for masked tokens, as JSON has no infinity
constexpr float kMasked = -std::numeric_limits<float>::infinity();

std::size_t index(TokenId token) { return static_cast<std::size_t>(token); }

// The first maximum.
TokenId argmax(std::span<const float> logits) {
  return static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin());
}

// A NaN, an infinity or a number beyond reason means that the forward pass went wrong.
void check_finite(std::span<const float> logits) {
  bool finite = true;
  for (const float logit : logits) finite &= std::abs(logit) <= kLargestLogit;
  if (!finite) {
    throw Error("the model produced logits that are not finite (or larger than {:.0e})",
                kLargestLogit);
  }
}

}  // namespace

Sampler::Sampler(int vocab_size, LogprobsMode mode)
    : mode_(mode),
      adjusted_(static_cast<std::size_t>(vocab_size)),
      counts_(static_cast<std::size_t>(vocab_size)) {
  candidates_.reserve(adjusted_.size());
}

SampledToken Sampler::sample(std::span<const float> raw_logits, const SamplingInput& input) {
  QUERN_CHECK(raw_logits.size() == adjusted_.size());
  check_finite(raw_logits);
  const std::span<const float> logits =
      input.allowed.empty() ? raw_logits : mask(raw_logits, input.allowed);
  const std::span<const float> adjusted = adjust(logits, input);
  const TokenId best = argmax(adjusted);
  if (adjusted[index(best)] == kMasked) {
    throw Error("the request's masks (allowed_token_ids, bad_words, min_tokens) leave no token");
  }
  const SamplingParams& params = input.params;
  const bool processes =
      mode_ == LogprobsMode::kProcessedLogprobs || mode_ == LogprobsMode::kProcessedLogits;
  std::span<const float> scored = processes ? adjusted : logits;
  SampledToken result;
  result.token = best;
  if (params.temperature >= kGreedyBelow) {
    const Cut limits = cut(adjusted, adjusted[index(best)], params);
    find_candidates(adjusted, limits, params.top_p);
    result.token = draw(input);
    if (processes && params.logprobs) scored = processed(adjusted, limits, params.top_p);
  }
  if (input.forced) result.token = *input.forced;
  if (params.logprobs) {
    const bool normalized =
        mode_ == LogprobsMode::kRawLogprobs || mode_ == LogprobsMode::kProcessedLogprobs;
    result.logprobs =
        scores(scored, result.token, *params.logprobs, params.logprob_token_ids, normalized);
  }
  return result;
}

std::span<const float> Sampler::mask(std::span<const float> logits,
                                     std::span<const grammar::MaskWord> allowed) {
  masked_.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const bool keeps = (allowed[i / 32] >> (i % 32) & 1) != 0;
    masked_[i] = keeps ? logits[i] : kMasked;
  }
  return masked_;
}

// Masks, logit_bias, penalties; on a copy, and only when there is something to do.
std::span<const float> Sampler::adjust(std::span<const float> logits, const SamplingInput& input) {
  const SamplingParams& params = input.params;
  const bool masks_stop =
      !input.only_end && static_cast<int>(input.output.size()) < params.min_tokens;
  const bool penalizes = params.repetition_penalty != 1 || params.frequency_penalty != 0 ||
                         params.presence_penalty != 0;
  const bool restricts = !params.allowed_token_ids.empty() || !params.bad_words.empty();
  if (!masks_stop && !penalizes && !restricts && params.logit_bias.empty()) return logits;

  std::ranges::copy(logits, adjusted_.begin());
  if (restricts) keep_allowed(input);
  if (masks_stop) {
    for (const TokenId token : input.eos_token_ids) adjusted_[index(token)] = kMasked;
    for (const TokenId token : params.stop_token_ids) adjusted_[index(token)] = kMasked;
  }
  for (const auto& [token, bias] : params.logit_bias) {
    adjusted_[index(token)] += std::clamp(bias, -kMaxLogitBias, kMaxLogitBias);
  }
  if (penalizes) penalize(input);
  return adjusted_;
}

// A bad word of several tokens loses its last one where the output ends with the others.
void Sampler::keep_allowed(const SamplingInput& input) {
  const SamplingParams& params = input.params;
  if (!params.allowed_token_ids.empty()) {
    for (const TokenId token : params.allowed_token_ids) counts_[index(token)] = 1;
    for (std::size_t i = 0; i < adjusted_.size(); ++i) {
      if (counts_[i] == 0) adjusted_[i] = kMasked;
    }
    for (const TokenId token : params.allowed_token_ids) counts_[index(token)] = 0;
  }
  for (const std::vector<TokenId>& word : params.bad_words) {
    const std::span<const TokenId> before = std::span(word).first(word.size() - 1);
    if (before.size() <= input.output.size() &&
        std::ranges::equal(before, input.output.last(before.size()))) {
      adjusted_[index(word.back())] = kMasked;
    }
  }
}

void Sampler::penalize(const SamplingInput& input) {
  if (input.params.repetition_penalty != 1) penalize_repetition(input);
  if (input.params.frequency_penalty != 0 || input.params.presence_penalty != 0) {
    penalize_counts(input);
  }
}

// l / r for l > 0, else l * r, once for every token in prompt or output. Any r above 0 is allowed,
// so the result is held in range, or probabilities would be NaN; a masked token stays masked.
void Sampler::penalize_repetition(const SamplingInput& input) {
  const float penalty = input.params.repetition_penalty;
  for (const auto tokens : {input.prompt, input.output}) {
    for (const TokenId token : tokens) {
      if (counts_[index(token)]++ > 0) continue;
      float& logit = adjusted_[index(token)];
      if (logit == kMasked) continue;
      logit =
          std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kLargestLogit, kLargestLogit);
    }
  }
  for (const auto tokens : {input.prompt, input.output}) {
    for (const TokenId token : tokens) counts_[index(token)] = 0;
  }
}

// l - frequency * count - presence, for every token of the output.
void Sampler::penalize_counts(const SamplingInput& input) {
  for (const TokenId token : input.output) ++counts_[index(token)];
  for (const TokenId token : input.output) {
    int& count = counts_[index(token)];
    if (count == 0) continue;  // done
    float& logit = adjusted_[index(token)];
    logit -= input.params.frequency_penalty * static_cast<float>(count);
    logit -= input.params.presence_penalty;
    count = 0;
  }
}

Sampler::Cut Sampler::cut(std::span<const float> logits, float maximum,
                          const SamplingParams& params) {
  const float temperature = std::max(params.temperature, kMinTemperature);
  const bool limits_k = params.top_k > 0 && index(params.top_k) < logits.size();
  return {temperature, maximum / temperature,
          limits_k ? kth_largest(logits, params.top_k) / temperature : kMasked, params.min_p};
}

// min_p: p < min_p * p_max, as the weight of p_max is 1.
float Sampler::Cut::weight(float logit) const {
  const float weight = std::exp(logit - largest);
  return logit < threshold || weight < min_p ? 0 : weight;
}

void Sampler::find_candidates(std::span<const float> logits, const Cut& cut, float top_p) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i] / cut.temperature;
    const float weight = cut.weight(logit);
    if (weight > 0) candidates_.push_back({logit, static_cast<TokenId>(i), weight});
  }
  if (top_p < 1) keep_top_p(top_p);
}

TokenId Sampler::draw(const SamplingInput& input) const {
  if (candidates_.empty()) throw Error("no token has a probability above 0");
  double total = 0;
  for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  const double target = uniform(input.key, input.output.size()) * total;
  double sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += static_cast<double>(candidate.weight);
    if (sum > target) return candidate.token;
  }
  return candidates_.back().token;  // target rounded up to the total
}

// The logits of the candidates. Without top_p also of tokens that are allowed, but so improbable
// that their weight is 0.
std::span<const float> Sampler::processed(std::span<const float> logits, const Cut& cut,
                                          float top_p) {
  processed_.assign(logits.size(), kMasked);
  for (const Candidate& candidate : candidates_) {
    processed_[index(candidate.token)] = candidate.logit;
  }
  if (top_p < 1 || cut.min_p > 0) return processed_;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i] / cut.temperature;
    if (logit >= cut.threshold) processed_[i] = logit;
  }
  return processed_;
}

float Sampler::kth_largest(std::span<const float> logits, int k) {
  largest_.resize(index(k));
  std::ranges::partial_sort_copy(logits, largest_, std::greater<>());
  return largest_.back();
}

// Keeps the fewest most probable candidates whose probabilities reach top_p, at least one: a
// candidate stays while the sum of those above it is < top_p. Ties go to the lower token id. A heap
// costs O(vocabulary + kept log vocabulary), and few are kept.
void Sampler::keep_top_p(float top_p) {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  const double limit = static_cast<double>(top_p) * total;

  const auto below = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.token > b.token;
  };
  std::ranges::make_heap(candidates_, below);
  auto heap_end = candidates_.end();
  for (double sum = 0; heap_end != candidates_.begin() && sum < limit; --heap_end) {
    std::pop_heap(candidates_.begin(), heap_end, below);  // the best moves to the end
    sum += static_cast<double>((heap_end - 1)->weight);
  }
  // The kept ones lie at the end, best last.
  candidates_.erase(candidates_.begin(), heap_end);
  std::ranges::reverse(candidates_);
}

TokenLogprobs Sampler::log_probabilities(std::span<const float> logits, TokenId chosen,
                                         int num_top) {
  check_finite(logits);
  return scores(logits, chosen, num_top, {}, true);
}

// l - log(sum of exp), summed in token order, or l itself when not `normalized`; of the `wanted`
// tokens if there are any, else of the `num_top` largest (-1 = all), ties by lower token id.
TokenLogprobs Sampler::scores(std::span<const float> logits, TokenId chosen, int num_top,
                              std::span<const TokenId> wanted, bool normalized) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += static_cast<double>(std::exp(logit - largest));
  // Subtracted one by one: the sum of a huge logit and a small logarithm would lose the latter.
  const double top = normalized ? static_cast<double>(largest) : 0;
  const double log_sum = normalized ? std::log(sum) : 0;
  const auto entry = [&](TokenId token) {
    const double logprob = static_cast<double>(logits[index(token)]) - top - log_sum;
    return TokenLogprob{token, static_cast<float>(std::max(logprob, kLeastLogprob))};
  };

  TokenLogprobs result;
  result.chosen = entry(chosen);
  const float chosen_logit = logits[index(chosen)];
  result.rank = static_cast<int>(
      std::ranges::count_if(logits, [&](float logit) { return logit >= chosen_logit; }));
  for (const TokenId token : wanted) result.top.push_back(entry(token));
  const std::size_t count = num_top < 0 ? logits.size() : std::min(index(num_top), logits.size());
  if (count == 0 || !wanted.empty()) return result;
  ranking_.resize(logits.size());
  std::iota(ranking_.begin(), ranking_.end(), 0);
  const auto middle = ranking_.begin() + static_cast<std::ptrdiff_t>(count);
  std::partial_sort(ranking_.begin(), middle, ranking_.end(), [&](TokenId a, TokenId b) {
    const float x = logits[index(a)];
    const float y = logits[index(b)];
    return x != y ? x > y : a < b;
  });
  result.top.reserve(count);
  for (auto it = ranking_.begin(); it != middle && logits[index(*it)] != kMasked; ++it) {
    result.top.push_back(entry(*it));
  }
  return result;
}

}  // namespace quern::engine
