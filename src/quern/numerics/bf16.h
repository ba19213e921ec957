// BF16: the upper half of an IEEE binary32; scalar and bulk conversions.
// Must never flush subnormals or round other than to nearest even; a NaN stays a (quiet) NaN.
// Proved by tests/numerics/convert_test.cc.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace quern {

// A BF16 bit pattern as it lies in a file.
struct BF16 {
  std::uint16_t bits;
  friend constexpr bool operator==(BF16, BF16) = default;
};

constexpr float bf16_to_float(BF16 value) {
  return std::bit_cast<float>(std::uint32_t{value.bits} << 16);
}

constexpr BF16 float_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFF'FFFFu) > 0x7F80'0000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
  // Half a unit in the last place, less one where the kept part is even: ties go to even.
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}

// The value as a BF16 tensor would hold it.
constexpr float round_to_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

// Spans of equal length; they must not overlap.
void bf16_to_float(std::span<const BF16> in, std::span<float> out);
void float_to_bf16(std::span<const float> in, std::span<BF16> out);

}  // namespace quern
