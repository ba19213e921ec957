// Small formats against their definition in double, and each SIMD path against the plain one.
#include "quern/numerics/quantize_rows.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"
#include "tests/numerics/targets.h"

namespace quern {
namespace {

struct Format {
  const char* name;
  MiniFloat format;
  double max;
} const kFormats[] = {{"E4M3", kE4M3, 448.0},
                      {"E5M2", kE5M2, 57344.0},
                      {"E3M2", kE3M2, 28.0},
                      {"E2M3", kE2M3, 7.5},
                      {"E2M1", kE2M1, 6.0}};

// The value of a code from the definition.
double value_of(const MiniFloat& f, int code) {
  const int mantissa = code & ((1 << f.mantissa_bits) - 1);
  const int exponent = code >> f.mantissa_bits;
  if (exponent == 0) return std::ldexp(mantissa, 1 - f.bias - f.mantissa_bits);
  return std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - f.bias - f.mantissa_bits);
}

// Nearest code by search; of two equally near the even one.
int nearest_code(const MiniFloat& f, double magnitude) {
  if (magnitude >= value_of(f, f.max_code)) return f.max_code;
  int best = 0;
  for (int code = 1; code <= f.max_code; ++code) {
    const double distance = std::abs(value_of(f, code) - magnitude);
    const double least = std::abs(value_of(f, best) - magnitude);
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return best;
}

TEST(MiniFloat, CodesAreTheNearestValues) {
  for (const Format& row : kFormats) {
    SCOPED_TRACE(row.name);
    const MiniFloat& f = row.format;
    EXPECT_EQ(value_of(f, f.max_code), row.max);
    for (int code = 0; code <= f.max_code; ++code) {
      const double value = value_of(f, code);
      EXPECT_EQ(decode_code(f, static_cast<std::uint8_t>(code)), value) << code;
      EXPECT_EQ(decode_code(f, static_cast<std::uint8_t>(code | f.sign_bit())), -value) << code;
      EXPECT_EQ(encode_magnitude(f, static_cast<float>(value)), code);
      if (code == f.max_code) continue;
      // The border to the next code, and its neighbours.
      const auto border = static_cast<float>((value + value_of(f, code + 1)) / 2);
      for (const float v : {border, std::nextafter(border, 0.0f), std::nextafter(border, 1e9f)}) {
        EXPECT_EQ(encode_magnitude(f, v), nearest_code(f, v)) << v;
      }
    }
    for (const float v : {0.0f, 0x1p-149f, 0x1p-126f, 1e30f, 3.4e38f}) {
      EXPECT_EQ(encode_magnitude(f, v), nearest_code(f, v)) << v;
    }
  }
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7F)) && std::isnan(e5m2_to_float(0xFE)));
  EXPECT_EQ(e5m2_to_float(0xFC), -HUGE_VALF);
  EXPECT_EQ(e4m3_to_float(0xFE), -448.0f);
}

TEST(MiniFloat, ScaleExponentOfE2M1IsThatOfMxfp4) {
  for (std::uint32_t high = 0; high < 0x7F80; ++high) {
    for (const std::uint32_t low : {0u, 1u, 0xFFFFu}) {
      ASSERT_EQ(mx_scale_exponent(kE2M1, high << 16 | low), mxfp4_scale_exponent(high << 16 | low));
    }
  }
}

// Values around one, with ties of the formats, zeros and far outliers.
std::vector<float> test_values(std::mt19937& random, std::size_t count) {
  std::vector<float> values(count);
  for (float& v : values) {
    const std::uint32_t r = next(random);
    switch (r % 6) {
      case 0:
        v = static_cast<float>(static_cast<int>(r >> 8 & 511) - 256) / 64.0f;
        break;
      case 1:
        v = std::bit_cast<float>((r & 0x8000'0000u) | (r >> 3 & 0x007F'FFFFu));  // subnormal
        break;
      case 2:
        v = std::bit_cast<float>((r & 0x80FF'FFFFu) | 0x3A00'0000u);
        break;
      case 3:
        v = (r & 8) != 0 ? -0.0f : 0.0f;
        break;
      default:
        v = std::bit_cast<float>((r & 0x80FF'FFFFu) | 0x3F00'0000u);
    }
  }
  return values;
}

TEST(QuantizeRows, SimdEqualsReference) {
  namespace reference = quantize_rows_reference;
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  for_each_simd_target([&] {
    std::mt19937 random(seed);
    for (const std::size_t count : {2u, 32u, 62u, 96u, 1024u, 4128u}) {
      const std::vector<float> in = test_values(random, count);
      const MinMax expected_range = reference::min_max(in);
      const MinMax range = min_max(in);
      EXPECT_EQ(range.min, expected_range.min);
      EXPECT_EQ(range.max, expected_range.max);
      EXPECT_TRUE(range.finite);
      for (const float scale : {1.0f, 0.37f, 0x1p-20f, 0x1p-127f, 0.0f, 3.1f}) {
        std::vector<std::uint8_t> bytes(count);
        std::vector<std::uint8_t> expected(count);
        for (const auto type : {QuotientType::kBF16, QuotientType::kF16, QuotientType::kF32}) {
          reference::e4m3_encode(in, scale, type, expected);
          e4m3_encode(in, scale, type, bytes);
          EXPECT_EQ(bytes, expected) << scale;
        }
        if (scale == 1.0f) {
          std::vector<float> huge = in;
          for (std::size_t i = 0; i < count; i += 3) huge[i] *= 0x1p126f;
          bytes.resize(count / 2);
          expected.resize(count / 2);
          reference::e2m1_encode(huge, 0x1p-23f, expected);
          e2m1_encode(huge, 0x1p-23f, bytes);
          EXPECT_EQ(bytes, expected);
        }
        if (scale == 0.0f) continue;  // the callers of the others never divide by zero
        bytes.resize(count / 2);
        expected.resize(count / 2);
        reference::e2m1_encode(in, scale, expected);
        e2m1_encode(in, scale, bytes);
        EXPECT_EQ(bytes, expected) << scale;
        for (const IntegerGrid& grid :
             {IntegerGrid{1.0f / scale, 0, -8, 7}, IntegerGrid{1.0f / scale, 5, 0, 15},
              IntegerGrid{1.0f / scale, 0, -128, 127}}) {
          std::vector<std::int8_t> whole(count);
          std::vector<std::int8_t> expected_whole(count);
          reference::integer_encode(in, grid, expected_whole);
          integer_encode(in, grid, whole);
          EXPECT_EQ(whole, expected_whole) << scale;
        }
      }
    }
  });
}

TEST(QuantizeRows, Mxfp6EqualsReferenceAndRefusesInfinity) {
  namespace reference = quantize_rows_reference;
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  for_each_simd_target([&] {
    std::mt19937 random(seed);
    for (const MiniFloat& element : {kE3M2, kE2M3}) {
      for (int power = -149; power <= 125; power += 5) {
        std::vector<float> in = test_values(random, 4 * kMxBlock);
        for (float& v : in) v = std::ldexp(v, power);
        std::vector<std::uint8_t> packed(in.size() / 4 * 3);
        std::vector<std::uint8_t> scales(4);
        std::vector<std::uint8_t> expected = packed;
        std::vector<std::uint8_t> expected_scales = scales;
        EXPECT_TRUE(reference::mxfp6_encode_row(element, in, expected, expected_scales));
        EXPECT_TRUE(mxfp6_encode_row(element, in, packed, scales));
        EXPECT_EQ(packed, expected) << power;
        EXPECT_EQ(scales, expected_scales) << power;
        for (const float bad : {HUGE_VALF, -HUGE_VALF, std::nanf("")}) {
          in[77] = bad;
          EXPECT_FALSE(mxfp6_encode_row(element, in, packed, scales));
          EXPECT_FALSE(min_max(in).finite);
        }
      }
    }
  });
}

// Decoded, a block is within half a step of the input: the scale and the packing belong together.
TEST(QuantizeRows, Mxfp6RoundTrip) {
  std::mt19937 random(7);
  for (const MiniFloat& element : {kE3M2, kE2M3}) {
    std::vector<float> in(kMxBlock);
    for (float& v : in)
      v = static_cast<float>(static_cast<int>(next(random) & 2047) - 1024) / 64.0f;
    std::vector<std::uint8_t> packed(24);
    std::uint8_t scale = 0;
    ASSERT_TRUE(mxfp6_encode_row(element, in, packed, {&scale, 1}));
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      const std::size_t bit = 6 * i;
      const auto word = static_cast<unsigned>(packed[bit / 8] |
                                              (bit / 8 + 1 < 24 ? packed[bit / 8 + 1] << 8 : 0));
      const auto code = static_cast<std::uint8_t>(word >> (bit % 8) & 63);
      const float decoded = decode_code(element, code) * e8m0_to_float(scale);
      // The rule "even" saturates values up to 7/4 over the largest code; here at most 1/8 is lost.
      EXPECT_NEAR(decoded, in[i], std::abs(in[i]) / 7 + 16.0 / 64) << i;
    }
  }
}

}  // namespace
}  // namespace quern
