// The plain MXFP4 code, one block at a time, as the definition reads.
// Must never be optimized: the SIMD path is compared with it.
// Proved by tests/numerics/mxfp4_test.cc (worked examples and an independent formulation).
#include <algorithm>
#include <bit>
#include <cmath>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"

namespace quern {

int mxfp4_scale_exponent(std::uint32_t amax_bits) {
  constexpr int kMaxElementExponent = 2;  // 6 = 1.5 * 2^2
  const std::uint32_t rounded = (amax_bits + 0x0020'0000u) & 0x7F80'0000u;
  if (rounded == 0) return -127;
  if (rounded == 0x7F80'0000u) return 127;
  return std::clamp(static_cast<int>(rounded >> 23) - kE8M0Bias - kMaxElementExponent, -127, 127);
}

namespace mxfp4_reference {
namespace {

float to_float(float value) { return value; }
float to_float(BF16 value) { return bf16_to_float(value); }
float to_float(FP16 value) { return fp16_to_float(value); }

// NaN compares as the largest, so that a block's maximum shows it.
std::uint32_t max_magnitude_bits(std::span<const float, kMxBlock> block) {
  std::uint32_t amax = 0;
  for (const float value : block) {
    amax = std::max(amax, std::bit_cast<std::uint32_t>(value) & 0x7FFF'FFFFu);
  }
  return amax;
}

bool is_finite_bits(std::uint32_t magnitude_bits) { return magnitude_bits < 0x7F80'0000u; }

template <typename T>
bool encode_row_of(std::span<const T> in, std::span<std::uint8_t> packed,
                   std::span<std::uint8_t> scales) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && packed.size() == in.size() / 2 &&
              scales.size() == in.size() / kMxBlock);
  bool finite = true;
  for (std::size_t b = 0; b < scales.size(); ++b) {
    float block[kMxBlock];
    for (std::size_t i = 0; i < kMxBlock; ++i) block[i] = to_float(in[b * kMxBlock + i]);
    const std::uint32_t amax = max_magnitude_bits(block);
    finite &= is_finite_bits(amax);
    const int exponent = mxfp4_scale_exponent(amax);
    const float scale = std::ldexp(1.0f, exponent);
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      std::uint8_t code = e2m1_encode_magnitude(std::abs(block[i]) / scale);
      if (std::signbit(block[i]) && code != 0) code |= 8;
      std::uint8_t& byte = packed[(b * kMxBlock + i) / 2];
      byte = i % 2 == 0 ? code : static_cast<std::uint8_t>(byte | code << 4);
    }
    scales[b] = static_cast<std::uint8_t>(std::max(exponent, -126) + kE8M0Bias);
  }
  return finite;
}

}  // namespace

bool encode_row(std::span<const BF16> in, std::span<std::uint8_t> packed,
                std::span<std::uint8_t> scales) {
  return encode_row_of(in, packed, scales);
}
bool encode_row(std::span<const FP16> in, std::span<std::uint8_t> packed,
                std::span<std::uint8_t> scales) {
  return encode_row_of(in, packed, scales);
}
bool encode_row(std::span<const float> in, std::span<std::uint8_t> packed,
                std::span<std::uint8_t> scales) {
  return encode_row_of(in, packed, scales);
}

void decode_row(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                std::span<float> out) {
  QUERN_CHECK(out.size() % kMxBlock == 0 && packed.size() == out.size() / 2 &&
              scales.size() == out.size() / kMxBlock);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const unsigned byte = packed[i / 2];
    const unsigned code = i % 2 == 0 ? byte & 15u : byte >> 4;
    out[i] = kE2M1Values[code] * e8m0_to_float(scales[i / kMxBlock]);
  }
}

void quantize_activations(std::span<const float> in, std::span<std::int8_t> doubled_codes,
                          std::span<std::uint8_t> scales) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && doubled_codes.size() == in.size() &&
              scales.size() == in.size() / kMxBlock);
  for (std::size_t b = 0; b < scales.size(); ++b) {
    const auto block = in.subspan(b * kMxBlock).first<kMxBlock>();
    const std::uint32_t amax = max_magnitude_bits(block);
    if (!is_finite_bits(amax)) {
      std::fill_n(doubled_codes.begin() + static_cast<std::ptrdiff_t>(b * kMxBlock), kMxBlock,
                  std::int8_t{0});
      scales[b] = kE8M0NaN;
      continue;
    }
    const int exponent = mxfp4_scale_exponent(amax);
    const float scale = std::ldexp(1.0f, exponent);
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      const std::uint8_t code = e2m1_encode_magnitude(std::abs(block[i]) / scale);
      doubled_codes[b * kMxBlock + i] = kE2M1Doubled[std::signbit(block[i]) ? code | 8 : code];
    }
    scales[b] = static_cast<std::uint8_t>(exponent + kE8M0Bias);
  }
}

void qdq(std::span<const float> in, std::span<float> out) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && out.size() == in.size());
  for (std::size_t b = 0; b < in.size(); b += kMxBlock) {
    const auto block = in.subspan(b).first<kMxBlock>();
    std::int8_t doubled[kMxBlock];
    std::uint8_t scale = 0;
    quantize_activations(block, doubled, {&scale, 1});
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      const float magnitude = std::abs(0.5f * doubled[i]) * e8m0_to_float(scale);
      out[b + i] = std::copysign(magnitude, block[i]);
    }
  }
}

}  // namespace mxfp4_reference
}  // namespace quern
