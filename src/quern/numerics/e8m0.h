// E8M0, the shared scale of MX blocks (OCP MX v1.0): byte b is 2^(b-127), 255 is NaN.
// Must never flush 2^-127, which is a subnormal binary32.
// Proved by tests/numerics/mxfp4_test.cc.
#pragma once

#include <bit>
#include <cstdint>

namespace quern {

inline constexpr int kE8M0Bias = 127;
inline constexpr std::uint8_t kE8M0NaN = 255;

constexpr float e8m0_to_float(std::uint8_t byte) {
  if (byte == kE8M0NaN) return std::bit_cast<float>(0x7FC0'0000u);
  if (byte == 0) return 0x1p-127f;
  return std::bit_cast<float>(std::uint32_t{byte} << 23);
}

}  // namespace quern
