// cos and sin of the three axes of a patch, for back ends on host memory.
// Must never be included above kernels/. Proved by tests/kernels/vision_parity_test.cc and
// tests/model/vision_tower_test.cc.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "quern/kernels/vision_backend.h"

namespace quern::kernels {

// One row a patch: [t f_0 .. t f_n, h f_0 .., w f_0 ..], float32 throughout, as vLLM computes it.
class PatchRopeTable {
 public:
  void compute(const PatchTokens& patches, const PatchAttentionSpec& spec) {
    pairs_ = spec.rope_pairs();
    const int axis = spec.axis_frequencies();
    frequencies_.resize(static_cast<std::size_t>(axis));
    for (int j = 0; j < axis; ++j) {
      const float exponent = static_cast<float>(2 * j) / static_cast<float>(2 * axis);
      frequencies_[static_cast<std::size_t>(j)] = 1.0F / std::pow(spec.rope_theta, exponent);
    }
    table_.clear();
    for (std::size_t patch = 0; patch < patches.coordinates.size(); patch += 3) {
      for (const bool cosine : {true, false}) {
        for (const std::int32_t position : patches.coordinates.subspan(patch, 3)) {
          for (const float frequency : frequencies_) {
            const float angle = static_cast<float>(position) * frequency;
            table_.push_back(cosine ? std::cos(angle) : std::sin(angle));
          }
        }
      }
    }
  }

  // [rope_pairs] each.
  const float* cos(std::int64_t patch) const { return table_.data() + patch * 2 * pairs_; }
  const float* sin(std::int64_t patch) const { return cos(patch) + pairs_; }
  int pairs() const { return pairs_; }

 private:
  int pairs_ = 0;
  std::vector<float> frequencies_;
  std::vector<float> table_;
};

}  // namespace quern::kernels
