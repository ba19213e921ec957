// BF16 and FP16: scalar functions against exact values, bulk functions against scalar ones.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"
#include "tests/numerics/targets.h"

namespace quern {
namespace {

float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(Convert, Bf16Rounding) {
  struct {
    std::uint32_t in;
    std::uint16_t out;
    const char* reason;
  } const rows[] = {
      {0x3F80'0000, 0x3F80, "one"},
      {0x3F80'8000, 0x3F80, "tie to even, down"},
      {0x3F81'8000, 0x3F82, "tie to even, up"},
      {0x3F80'8001, 0x3F81, "just above a tie"},
      {0x8000'0000, 0x8000, "minus zero"},
      {0x0000'8001, 0x0001, "subnormal rounds up"},
      {0x0000'8000, 0x0000, "subnormal tie to even"},
      {0x7F7F'FFFF, 0x7F80, "largest float overflows"},
      {0xFF80'0000, 0xFF80, "minus infinity"},
      {0x7F80'0001, 0x7FC0, "signalling NaN becomes quiet, not infinity"},
      {0xFFFF'FFFF, 0xFFFF, "NaN keeps its sign"},
  };
  for (const auto& row : rows)
    EXPECT_EQ(float_to_bf16(float_of(row.in)).bits, row.out) << row.reason;
}

TEST(Convert, Fp16Rounding) {
  struct {
    float in;
    std::uint16_t out;
    const char* reason;
  } const rows[] = {
      {1.0f, 0x3C00, "one"},
      {65504.0f, 0x7BFF, "largest"},
      {65519.996f, 0x7BFF, "below the border to infinity"},
      {65520.0f, 0x7C00, "border rounds to infinity"},
      {-1e30f, 0xFC00, "overflow"},
      {0x1p-14f, 0x0400, "smallest normal"},
      {0x1.ff8p-15f, 0x03FF, "largest subnormal"},
      {0x1.ffcp-15f, 0x0400, "tie between them goes to even"},
      {0x1p-24f, 0x0001, "smallest subnormal"},
      {0x1p-25f, 0x0000, "tie to zero"},
      {-0x1.8p-24f, 0x8002, "subnormal tie to even"},
      {-0.0f, 0x8000, "minus zero"},
      {1.00048828125f, 0x3C00, "tie to even, down"},
      {1.00146484375f, 0x3C02, "tie to even, up"},
  };
  for (const auto& row : rows) EXPECT_EQ(float_to_fp16(row.in).bits, row.out) << row.reason;
  EXPECT_EQ(float_to_fp16(float_of(0x7F80'0001)).bits, 0x7E00);
}

// The definition, in double: sign, exponent, mantissa.
double fp16_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 0x3FF;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(Convert, All65536Patterns) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float from_fp16 = fp16_to_float(FP16{bits});
    if ((i & 0x7FFF) > 0x7C00) {
      ASSERT_TRUE(std::isnan(from_fp16)) << i;
    } else if ((i & 0x7FFF) == 0x7C00) {
      ASSERT_TRUE(std::isinf(from_fp16)) << i;
    } else {
      ASSERT_EQ(from_fp16, fp16_value(bits)) << i;
      ASSERT_EQ(float_to_fp16(from_fp16).bits, bits);
    }
    const float from_bf16 = bf16_to_float(BF16{bits});
    ASSERT_EQ(bits_of(from_bf16), i << 16);
    const bool signalling = (i & 0x7FFF) > 0x7F80 && (i & 0x40) == 0;
    ASSERT_EQ(float_to_bf16(from_bf16).bits, signalling ? bits | 0x40 : bits);
  }
}

TEST(Convert, BulkEqualsScalar) {
  const std::uint32_t seed = 20261124;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<std::uint16_t> all(65536 + 7);  // an odd length: the tail is scalar
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide;
  for (const std::uint16_t bits : all) {
    for (const std::uint32_t low : {0x0000u, 0x7FFFu, 0x8000u, 0x8001u, next(random) & 0xFFFFu}) {
      wide.push_back(float_of(std::uint32_t{bits} << 16 | low));
    }
    // Around every FP16 tie.
    const std::uint32_t half = bits_of(fp16_to_float(FP16{bits})) | 0x1000u;
    for (const std::uint32_t near : {half - 1, half, half + 1}) wide.push_back(float_of(near));
  }
  for_each_simd_target([&] {
    const std::span<const std::uint16_t> patterns(all);
    std::vector<float> out(all.size());
    bf16_to_float({reinterpret_cast<const BF16*>(all.data()), all.size()}, out);
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(bits_of(out[i]), bits_of(bf16_to_float(BF16{all[i]}))) << i;
    }
    fp16_to_float({reinterpret_cast<const FP16*>(all.data()), all.size()}, out);
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(bits_of(out[i]), bits_of(fp16_to_float(FP16{all[i]}))) << i;
    }
    std::vector<BF16> bf16(wide.size());
    std::vector<FP16> fp16(wide.size());
    float_to_bf16(wide, bf16);
    float_to_fp16(wide, fp16);
    for (std::size_t i = 0; i < wide.size(); ++i) {
      ASSERT_EQ(bf16[i], float_to_bf16(wide[i])) << std::hex << bits_of(wide[i]);
      ASSERT_EQ(fp16[i], float_to_fp16(wide[i])) << std::hex << bits_of(wide[i]);
    }
  });
}

}  // namespace
}  // namespace quern
