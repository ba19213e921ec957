// The rule that picks the key blocks of one query and index head (MiniMax Sparse Attention).
// Must never depend on the order in which blocks are scored; ties go to the lower block.
// Proved by tests/kernels/selection_routing_test.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace quern::kernels {

// `scores` [visible]: the largest index score in each visible block, overwritten here; NaN counts
// as -1e30. Blocks below init_blocks get 1e30, then the last local_blocks get 1e29, as vLLM's
// indexer forces them. `order` [visible] is scratch. Writes min(visible, chosen.size()) ids in
// ascending order, then -1.
inline void choose_blocks(std::span<float> scores, int init_blocks, int local_blocks,
                          std::span<std::int32_t> order, std::span<std::int32_t> chosen) {
  const auto visible = static_cast<std::int32_t>(scores.size());
  const auto limit = static_cast<std::int32_t>(chosen.size());
  std::fill(chosen.begin(), chosen.end(), -1);
  if (visible <= limit) {
    for (std::int32_t b = 0; b < visible; ++b) chosen[static_cast<std::size_t>(b)] = b;
    return;
  }
  for (std::int32_t b = 0; b < visible; ++b) {
    float& score = scores[static_cast<std::size_t>(b)];
    if (score != score) score = -1e30F;
    if (b < init_blocks) score = 1e30F;
    if (b >= visible - local_blocks) score = 1e29F;
    order[static_cast<std::size_t>(b)] = b;
  }
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float sa = scores[static_cast<std::size_t>(a)];
    const float sb = scores[static_cast<std::size_t>(b)];
    return sa != sb ? sa > sb : a < b;
  };
  std::nth_element(order.begin(), order.begin() + limit, order.end(), better);
  std::copy_n(order.begin(), limit, chosen.begin());
  std::sort(chosen.begin(), chosen.end());
}

}  // namespace quern::kernels
