// Chooses the next token of one sequence from its logits.
// Must never depend on other rows of the step: same logits, parameters and key give the same token.
// Proved by tests/engine/sampler_test.cc (against a naive sampler).
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "quern/engine/block_pool.h"
#include "quern/engine/random.h"
#include "quern/engine/request.h"

namespace quern::engine {

struct SamplingInput {
  const SamplingParams& params;
  std::span<const TokenId> prompt;
  std::span<const TokenId> output;         // so far
  std::span<const TokenId> eos_token_ids;  // masked until min_tokens
  RandomKey key;
  std::span<const grammar::MaskWord> allowed = {};  // by a grammar; empty: all tokens
  bool only_end = false;               // the grammar leaves nothing else: min_tokens does not hold
  std::optional<TokenId> forced = {};  // taken whatever the logits say
};

struct SampledToken {
  TokenId token = 0;
  std::optional<TokenLogprobs> logprobs;
};

// The order of vLLM v1/sample/sampler.py: grammar mask, log-probabilities of the raw logits that it
// leaves, allowed tokens, bad words, min_tokens mask, logit_bias, penalties, greedy; else
// temperature, min_p, top_k (ties kept), top_p, draw. The processed modes of log-probabilities look
// at what the last of these left.
// The draw is by inversion of the cumulative sum, in token order (by descending logit under top_p),
// at one uniform number. Scratch is kept between calls. Not thread-safe.
class Sampler {
 public:
  explicit Sampler(int vocab_size, LogprobsMode mode = LogprobsMode::kRawLogprobs);

  // `raw_logits` [vocabulary]. Throws Error when they are not finite.
  SampledToken sample(std::span<const float> raw_logits, const SamplingInput& input);
  // Of any token under the raw logits, with the `num_top` most probable (-1 = all). Throws as
  // sample().
  TokenLogprobs log_probabilities(std::span<const float> logits, TokenId chosen, int num_top);

 private:
  struct Candidate {
    float logit;  // divided by the temperature
    TokenId token;
    float weight;  // exp(logit - largest)
  };

  std::span<const float> mask(std::span<const float> logits,
                              std::span<const grammar::MaskWord> allowed);
  std::span<const float> adjust(std::span<const float> logits, const SamplingInput& input);
  void penalize(const SamplingInput& input);
  void penalize_repetition(const SamplingInput& input);
  void penalize_counts(const SamplingInput& input);
  // What temperature, top_k and min_p leave of a row.
  struct Cut {
    float temperature;
    float largest;    // logit
    float threshold;  // of top_k
    float min_p;

    float weight(float logit) const;  // exp(logit - largest), 0 when it is cut off
  };
  Cut cut(std::span<const float> logits, float maximum, const SamplingParams& params);
  void find_candidates(std::span<const float> logits, const Cut& cut, float top_p);
  TokenId draw(const SamplingInput& input) const;
  std::span<const float> processed(std::span<const float> logits, const Cut& cut, float top_p);
  float kth_largest(std::span<const float> logits, int k);
  void keep_top_p(float top_p);
  void keep_allowed(const SamplingInput& input);
  TokenLogprobs scores(std::span<const float> logits, TokenId chosen, int num_top,
                       std::span<const TokenId> wanted, bool normalized);

  const LogprobsMode mode_;
  std::vector<float> masked_;          // [vocabulary], for rows with a grammar
  std::vector<float> adjusted_;        // [vocabulary]
  std::vector<float> processed_;       // [vocabulary], in the processed modes
  std::vector<int> counts_;            // [vocabulary], zero between calls
  std::vector<Candidate> candidates_;  // capacity: vocabulary
  std::vector<float> largest_;
  std::vector<TokenId> ranking_;
};

}  // namespace quern::engine
