// See mxfp4_dot.h.
#include "quern/kernels/cpu/mxfp4_dot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

constexpr int kBlock = static_cast<int>(kMxBlock);
// Above this scale exponent a block sum times its scale could overflow before the weight's scale
// brings it down.
constexpr int kHugeScale = 200;
constexpr int kHugeShift = 64;

}  // namespace

QuantizedRow quantize_row(std::span<const float> x, const QuantizedRowStorage& storage) {
  const auto blocks = static_cast<std::int64_t>(x.size()) / kBlock;
  const std::int64_t padded = mx_groups(static_cast<std::int64_t>(x.size())) * kMxGroup;
  std::array<std::int8_t, kMxBlock> codes{};
  std::uint8_t exponent = 0;
  int highest = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    mxfp4_quantize_activations(x.subspan(static_cast<std::size_t>(b * kBlock), kMxBlock), codes,
                               {&exponent, 1});
    std::int8_t* out = storage.codes + b * kBlock;
    int sum = 0;
    for (int i = 0; i < kBlock / 2; ++i) {
      out[i] = codes[static_cast<std::size_t>(2 * i)];
      out[kBlock / 2 + i] = codes[static_cast<std::size_t>(2 * i + 1)];
      sum += out[i] + out[kBlock / 2 + i];
    }
    storage.offsets[b] = static_cast<std::int16_t>(12 * sum);
    storage.scales[b] = e8m0_to_float(exponent) * 0.25F;
    if (exponent != kE8M0NaN) highest = std::max<int>(highest, exponent);
  }
  std::fill(storage.codes + blocks * kBlock, storage.codes + padded * kBlock, std::int8_t{0});
  std::fill(storage.scales + blocks, storage.scales + padded, 0.0F);
  std::fill(storage.offsets + blocks, storage.offsets + padded, std::int16_t{0});
  QuantizedRow row{storage.codes, storage.scales, storage.offsets, 1.0F};
  if (highest > kHugeScale) {
    for (std::int64_t b = 0; b < blocks; ++b)
      storage.scales[b] = std::ldexp(storage.scales[b], -kHugeShift);
    row.post_scale = std::ldexp(1.0F, kHugeShift);
  }
  return row;
}

void mxfp4_dot_tile_generic(const std::uint8_t* packed, const std::uint8_t* scales,
                            std::int64_t rows, std::int64_t n, const QuantizedRow* const* x,
                            std::int64_t tokens, float* out, std::int64_t out_stride) {
  const std::int64_t blocks = n / kBlock;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::array<float, kMxGroup> lanes{};
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::uint8_t* codes = packed + r * n / 2 + b * kBlock / 2;
        const std::int8_t* activations = x[t]->codes + b * kBlock;
        int sum = 0;
        for (int i = 0; i < kBlock / 2; ++i) {
          sum += kE2M1Doubled[codes[i] & 15] * activations[i];
          sum += kE2M1Doubled[codes[i] >> 4] * activations[kBlock / 2 + i];
        }
        float& lane = lanes[static_cast<std::size_t>(b % kMxGroup)];
        const float scaled = static_cast<float>(sum) * x[t]->scales[b];
        lane = std::fma(scaled, e8m0_to_float(scales[r * blocks + b]), lane);
      }
      const float even = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6]);
      const float odd = (lanes[1] + lanes[5]) + (lanes[3] + lanes[7]);
      out[t * out_stride + r] = (even + odd) * x[t]->post_scale;
    }
  }
}

void mxfp4_dot_tile(const std::uint8_t* packed, const std::uint8_t* scales, std::int64_t rows,
                    std::int64_t n, const QuantizedRow* const* x, std::int64_t tokens, float* out,
                    std::int64_t out_stride) {
#if defined(__x86_64__)
  static const bool has_avx2 =
      __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (has_avx2) {
    mxfp4_dot_tile_avx2(packed, scales, rows, n, x, tokens, out, out_stride);
    return;
  }
#endif
  mxfp4_dot_tile_generic(packed, scales, rows, n, x, tokens, out, out_stride);
}

}  // namespace quern::kernels
