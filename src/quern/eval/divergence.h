// How far a quantized model's predictions are from its base's, token by token, and in which layer
// the loss arises. Must never compare different tokens: the base's record says what is run. Proved
// by tests/eval/divergence_test.cc (against NumPy on models/m3-tiny).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/base_record.h"

namespace quern {

// Of one scored token t behind its context; natural logarithms.
struct TokenDivergence {
  double kl = 0;        // sum over the vocabulary of p_base (log p_base - log p_quantized)
  double base_nll = 0;  // -log p_base(t)
  double quantized_nll = 0;
  double token_change = 0;   // p_quantized(t) - p_base(t)
  double choice_change = 0;  // the same for the token that the base finds most probable
  bool same_choice = false;  // both find the same token most probable
};

struct LayerDivergence {
  int layer = 0;
  double signal = 0;  // sum of squares of the base's residual stream behind the layer
  double error = 0;   // of the difference
  std::size_t experts = 0, equal_experts = 0;  // chosen by the base; by both
  std::size_t blocks = 0, equal_blocks = 0;    // selected by the base; by both

  double sqnr_db() const;  // infinite without an error
};

struct Divergence {
  std::vector<TokenDivergence> tokens;
  std::vector<LayerDivergence> layers;  // empty when the record has none
};

// Of two rows of logits; `token` is the one that follows.
TokenDivergence token_divergence(std::span<const float> base, std::span<const float> quantized,
                                 std::size_t token);

// Runs the quantized model over the record's texts. Throws Error when its vocabulary or layers are
// not those of the record.
Divergence measure_divergence(const BaseRecord& base, LogitModel& quantized,
                              bool show_progress = true);

// A mean with its standard error (sample standard deviation over the root of the count).
struct Estimate {
  double value = 0;
  double error = 0;
};
struct DivergenceSummary {
  std::size_t tokens = 0;
  Estimate base_perplexity, quantized_perplexity;  // errors to first order
  Estimate log_ratio;                              // log(quantized perplexity / base perplexity)
  Estimate ratio;                                  // of the perplexities
  Estimate difference;                             // of the perplexities
  double correlation = 0;                          // of the two log-probabilities, over tokens
  Estimate kl;
  Estimate token_change, token_change_rms;
  Estimate choice_change, choice_change_rms;
  Estimate same_choice;
};
DivergenceSummary summarize(const Divergence& divergence);

// The values of the tables of llama-perplexity --kl-divergence, and the layers'.
Json divergence_json(const Divergence& divergence);
std::string divergence_table(const Divergence& divergence);

}  // namespace quern
