// FP16 (IEEE binary16): scalar and bulk conversions.
// Must never flush subnormals or round other than to nearest even; a NaN stays a (quiet) NaN.
// Proved by tests/numerics/convert_test.cc.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace quern {

// An FP16 bit pattern as it lies in a file.
struct FP16 {
  std::uint16_t bits;
  friend constexpr bool operator==(FP16, FP16) = default;
};

constexpr float fp16_to_float(FP16 value) {
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7FFFu;
  std::uint32_t bits;
  if (magnitude > 0x7C00u) {
    bits = 0x7FC0'0000u | magnitude << 13;
  } else if (magnitude == 0x7C00u) {
    bits = 0x7F80'0000u;
  } else {
    // Read as a binary32 the exponent is too small by 127 - 15; the product is exact, subnormals
    // too.
    bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f);
  }
  return std::bit_cast<float>(sign | bits);
}

constexpr FP16 float_to_fp16(float value) {
  const auto all = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = all >> 16 & 0x8000u;
  const std::uint32_t bits = all & 0x7FFF'FFFFu;
  std::uint32_t result;
  if (bits > 0x7F80'0000u) {
    result = 0x7E00u | (bits >> 13 & 0x3FFu);
  } else if (bits >= 0x477F'F000u) {  // 65520, half way to 2^16: rounds to infinity
    result = 0x7C00u;
  } else if (bits < 0x3880'0000u) {  // below 2^-14: adding 0.5 rounds at 2^-24, the subnormal unit
    result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) + 0.5f) - 0x3F00'0000u;
  } else {
    result = (bits - (112u << 23) + 0xFFFu + (bits >> 13 & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | result)};
}

// Spans of equal length; they must not overlap.
void fp16_to_float(std::span<const FP16> in, std::span<float> out);
void float_to_fp16(std::span<const float> in, std::span<FP16> out);

}  // namespace quern
