// The rule that picks a token's experts from the router's logits (sigmoid scores, selection bias).
// Must never let the bias reach the weights; ties go to the lower expert.
// Proved by tests/kernels/selection_routing_test.cc.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace quern::kernels {

// s = sigmoid(logits); the experts with the largest s + bias are chosen, best first; weights s /
// sum(s). logits [experts] are overwritten with s; bias empty or [experts]; chosen and weights
// [experts_per_token].
inline void choose_experts(std::span<float> logits, std::span<const float> bias,
                           std::span<std::int32_t> chosen, std::span<float> weights) {
  for (float& logit : logits) logit = 1.0F / (1.0F + std::exp(-logit));
  const auto choice = [&](std::size_t e) { return bias.empty() ? logits[e] : logits[e] + bias[e]; };
  float sum = 0;
  for (std::size_t k = 0; k < chosen.size(); ++k) {
    std::size_t best = logits.size();
    for (std::size_t e = 0; e < logits.size(); ++e) {
      bool taken = false;
      for (std::size_t i = 0; i < k; ++i) taken |= static_cast<std::size_t>(chosen[i]) == e;
      if (taken) continue;
      if (best == logits.size() || choice(e) > choice(best)) best = e;
    }
    chosen[k] = static_cast<std::int32_t>(best);
    weights[k] = logits[best];
    sum += logits[best];
  }
  for (float& weight : weights) weight /= sum;
}

}  // namespace quern::kernels
