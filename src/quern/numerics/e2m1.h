// E2M1, the 4-bit element of MXFP4 (OCP MX v1.0): sign b3, exponent b2..b1, mantissa b0, bias 1.
// Must never round other than to nearest even with saturation at 6: Quark's weights depend on it.
// Proved by tests/numerics/mxfp4_test.cc.
#pragma once

#include <array>
#include <cstdint>

namespace quern {

// The value of each code; 8 is -0.
inline constexpr std::array<float, 16> kE2M1Values = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                      4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                      -2.0f, -3.0f, -4.0f, -6.0f};

// Twice the value: small integers, so that products of codes are exact integers.
inline constexpr std::array<std::int8_t, 16> kE2M1Doubled = {0, 1,  2,  3,  4,  6,  8,  12,
                                                             0, -1, -2, -3, -4, -6, -8, -12};

// The code 0..7 of a magnitude (not NaN, not negative). Each line is the border between two codes;
// a tie goes to the code whose mantissa bit is 0, so borders below even codes are inclusive.
constexpr std::uint8_t e2m1_encode_magnitude(float magnitude) {
  int code = 0;
  code += magnitude > 0.25f;
  code += magnitude >= 0.75f;
  code += magnitude > 1.25f;
  code += magnitude >= 1.75f;
  code += magnitude > 2.5f;
  code += magnitude >= 3.5f;
  code += magnitude > 5.0f;
  return static_cast<std::uint8_t>(code);
}

}  // namespace quern
