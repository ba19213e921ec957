// Scale rules: their bounds, the default's equality with the fast path, the search by brute force.
#include "quern/numerics/scale_rule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "quern/numerics/mxfp4.h"
#include "tests/numerics/targets.h"

namespace quern {
namespace {

TEST(ScaleRule, Names) {
  for (const char* name : {"even", "floor", "ceil", "rceil", "search"}) {
    EXPECT_EQ(scale_rule_name(scale_rule_from_name(name).value()), name);
  }
  EXPECT_FALSE(scale_rule_from_name("Even").has_value());
}

TEST(ScaleRule, ExponentTable) {
  struct {
    float amax;
    int even, floor, ceil, rceil;
  } const rows[] = {
      {4.0f, 0, 0, 0, 0},
      {std::nextafter(4.0f, 5.0f), 0, 0, 1, 0},
      {6.0f, 0, 0, 1, 0},
      {std::nextafter(6.0f, 7.0f), 0, 0, 1, 1},
      {7.0f, 1, 0, 1, 1},
      {0.0f, -126, -126, -126, -126},
      {0x1p-149f, -126, -126, -126, -126},
      {0x1.8p127f, 125, 125, 126, 125},
      {0x1.fffffep127f, 126, 125, 126, 126},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.amax);
    // Above 2^127 * 1.75 rounding overflows in Quark, and the exponent is clamped to 127.
    if (row.amax < 0x1.cp127f) {
      EXPECT_EQ(scale_exponent(ScaleRule::kEven, row.amax), row.even);
    }
    EXPECT_EQ(scale_exponent(ScaleRule::kFloor, row.amax), row.floor);
    EXPECT_EQ(scale_exponent(ScaleRule::kCeil, row.amax), row.ceil);
    EXPECT_EQ(scale_exponent(ScaleRule::kRceil, row.amax), row.rceil);
  }
}

std::vector<float> random_row(std::mt19937& random, std::size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> row(count);
  for (float& v : row) v = normal(random) * std::ldexp(1.0f, static_cast<int>(next(random) % 3));
  return row;
}

double error_of(const std::vector<float>& row, const std::vector<float>& importance,
                const std::vector<std::uint8_t>& packed, const std::vector<std::uint8_t>& scales) {
  std::vector<float> decoded(row.size());
  mxfp4_decode_row(packed, scales, decoded);
  double sum = 0.0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double error = double{row[i]} - double{decoded[i]};
    sum += error * error * (importance.empty() ? 1.0 : double{importance[i]});
  }
  return sum;
}

TEST(ScaleRule, EvenIsTheFastPath) {
  std::mt19937 random(1);
  const std::vector<float> row = random_row(random, 64 * kMxBlock);
  std::vector<std::uint8_t> packed(row.size() / 2);
  std::vector<std::uint8_t> scales(64);
  std::vector<std::uint8_t> expected = packed;
  std::vector<std::uint8_t> expected_scales = scales;
  ASSERT_TRUE(mxfp4_encode_row(row, expected, expected_scales));
  ASSERT_TRUE(mxfp4_encode_row_by_rule(ScaleRule::kEven, row, {}, packed, scales));
  EXPECT_EQ(packed, expected);
  EXPECT_EQ(scales, expected_scales);
}

// Against the encoding at each of the three exponents, made with a block whose rule gives it.
TEST(ScaleRule, SearchFindsTheLeastError) {
  std::mt19937 random(2);
  int moved = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const std::vector<float> row = random_row(random, kMxBlock);
    std::vector<float> importance;
    if (trial % 2 == 1) {
      for (std::size_t i = 0; i < kMxBlock; ++i) {
        importance.push_back(static_cast<float>(next(random) % 100));
      }
    }
    std::vector<std::uint8_t> packed(kMxBlock / 2);
    std::vector<std::uint8_t> scale(1);
    ASSERT_TRUE(mxfp4_encode_row_by_rule(ScaleRule::kSearch, row, importance, packed, scale));
    const double found = error_of(row, importance, packed, scale);
    std::vector<std::uint8_t> other(kMxBlock / 2);
    std::vector<std::uint8_t> even(1);
    ASSERT_TRUE(mxfp4_encode_row_by_rule(ScaleRule::kEven, row, {}, other, even));
    EXPECT_LE(found, error_of(row, importance, other, even));
    for (const int step : {-1, 1}) {
      const float x = std::ldexp(1.0f, even[0] - 127 + step);
      for (std::size_t j = 0; j < other.size(); ++j) {  // nearest code by trying all
        unsigned byte = 0;
        for (std::size_t half = 0; half < 2; ++half) {
          unsigned best = 0;
          double least = HUGE_VAL;
          for (unsigned code = 0; code < 16; ++code) {
            const std::uint8_t one = static_cast<std::uint8_t>(code);
            std::vector<float> pair(kMxBlock);
            std::vector<std::uint8_t> bytes(kMxBlock / 2, one);
            const std::vector<std::uint8_t> unit = {127};
            mxfp4_decode_row(bytes, unit, pair);
            const double d = std::abs(double{row[2 * j + half]} - double{pair[0]} * double{x});
            if (d < least) {
              least = d;
              best = code;
            }
          }
          byte |= best << (4 * half);
        }
        other[j] = static_cast<std::uint8_t>(byte);
      }
      const std::vector<std::uint8_t> tried = {static_cast<std::uint8_t>(even[0] + step)};
      EXPECT_LE(found, error_of(row, importance, other, tried) * (1 + 1e-12));
    }
    moved += scale[0] != even[0];
  }
  EXPECT_GT(moved, 100);  // the search does something
}

TEST(ScaleRule, RefusesInfinity) {
  std::vector<float> row(kMxBlock, 1.0f);
  row[5] = HUGE_VALF;
  std::vector<std::uint8_t> packed(kMxBlock / 2);
  std::vector<std::uint8_t> scale(1);
  EXPECT_FALSE(mxfp4_encode_row_by_rule(ScaleRule::kCeil, row, {}, packed, scale));
}

}  // namespace
}  // namespace quern
