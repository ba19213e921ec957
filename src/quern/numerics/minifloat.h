// Floating point formats of 8 bits and less: E4M3, E5M2 (FP8), E3M2, E2M3 (FP6) and E2M1 (FP4).
// Must never round other than to nearest even. Encoding saturates, decoding is exact.
// Proved by tests/numerics/quantize_rows_test.cc against the definition in double.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace quern {

// Exponent and mantissa bits, bias, the code of the largest finite magnitude, and that of NaN where
// there is one.
struct MiniFloat {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  std::uint8_t max_code;

  constexpr std::uint8_t sign_bit() const {
    return static_cast<std::uint8_t>(1u << (exponent_bits + mantissa_bits));
  }
  // OCP's emax: the exponent of the largest power of two.
  constexpr int max_exponent() const { return (max_code >> mantissa_bits) - bias; }
};

inline constexpr MiniFloat kE4M3{4, 3, 7, 0x7E};   // 448; 0x7F is NaN
inline constexpr MiniFloat kE5M2{5, 2, 15, 0x7B};  // 57344; 0x7C is Inf, above it NaN
inline constexpr MiniFloat kE3M2{3, 2, 3, 0x1F};   // 28
inline constexpr MiniFloat kE2M3{2, 3, 1, 0x1F};   // 7.5
inline constexpr MiniFloat kE2M1{2, 1, 1, 0x07};   // 6

// The code of a magnitude (not NaN, sign bit clear), saturated.
constexpr std::uint8_t encode_magnitude(const MiniFloat& f, float magnitude) {
  const auto bits = std::bit_cast<std::uint32_t>(magnitude);
  const int drop = 23 - f.mantissa_bits;
  const auto smallest_normal = static_cast<std::uint32_t>(128 - f.bias) << 23;
  std::uint32_t code = 0;
  if (bits < smallest_normal) {
    // Adding 2^(23 + the exponent of the subnormal unit) rounds at that unit.
    const auto magic = static_cast<std::uint32_t>(128 - f.bias + drop) << 23;
    code = std::bit_cast<std::uint32_t>(magnitude + std::bit_cast<float>(magic)) - magic;
  } else {
    const std::uint32_t rounded = bits + (1u << (drop - 1)) - 1 + (bits >> drop & 1u);
    code = (rounded >> drop) - (static_cast<std::uint32_t>(127 - f.bias) << f.mantissa_bits);
  }
  return static_cast<std::uint8_t>(std::min<std::uint32_t>(code, f.max_code));
}

// The value of a code without specials.
constexpr float decode_code(const MiniFloat& f, std::uint8_t code) {
  const std::uint32_t sign = code & f.sign_bit() ? 0x8000'0000u : 0u;
  const std::uint32_t magnitude = code & (f.sign_bit() - 1u);
  // Read as a binary32 the exponent is too small by 127 - bias; the product is exact.
  const float small = std::bit_cast<float>(magnitude << (23 - f.mantissa_bits));
  const float unit = std::bit_cast<float>(static_cast<std::uint32_t>(254 - f.bias) << 23);
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(small * unit));
}

constexpr float e4m3_to_float(std::uint8_t code) {
  if ((code & 0x7F) == 0x7F) {
    return std::bit_cast<float>(0x7FC0'0000u | static_cast<std::uint32_t>(code & 0x80) << 24);
  }
  return decode_code(kE4M3, code);
}

constexpr float e5m2_to_float(std::uint8_t code) {
  const std::uint32_t sign = static_cast<std::uint32_t>(code & 0x80) << 24;
  if ((code & 0x7F) > 0x7C) return std::bit_cast<float>(sign | 0x7FC0'0000u);
  if ((code & 0x7F) == 0x7C) return std::bit_cast<float>(sign | 0x7F80'0000u);
  return decode_code(kE5M2, code);
}

// The exponent of a block's E8M0 scale, -127..127, from the binary32 bits of its largest magnitude
// (finite): round the magnitude to the element's mantissa width (ties up), take the exponent, minus
// the element's largest exponent. Quark: quantization/utils.py even_round.
constexpr int mx_scale_exponent(const MiniFloat& f, std::uint32_t amax_bits) {
  const std::uint32_t rounded = (amax_bits + (1u << (22 - f.mantissa_bits))) & 0x7F80'0000u;
  if (rounded == 0) return -127;
  if (rounded == 0x7F80'0000u) return 127;
  return std::clamp(static_cast<int>(rounded >> 23) - 127 - f.max_exponent(), -127, 127);
}

}  // namespace quern
