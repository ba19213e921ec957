// Statistics of quantized weights: counted by hand, and SIMD against the plain version.
#include "quern/numerics/weight_statistics.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"
#include "tests/numerics/targets.h"

namespace quern {
namespace {

struct EncodedRow {
  std::vector<std::uint8_t> packed, scales;
};

template <typename T>
EncodedRow encode_row(const std::vector<T>& weights) {
  EncodedRow out{std::vector<std::uint8_t>(weights.size() / 2),
                 std::vector<std::uint8_t>(weights.size() / kMxBlock)};
  EXPECT_TRUE(mxfp4_encode_row(weights, out.packed, out.scales));
  return out;
}

WeightStatistics plain(const std::vector<float>& weights, const EncodedRow& encoded) {
  std::vector<float> restored(weights.size());
  std::vector<float> scales;
  mxfp4_decode_row(encoded.packed, encoded.scales, std::span(restored));
  for (const std::uint8_t scale : encoded.scales) scales.push_back(e8m0_to_float(scale));
  WeightStatistics result;
  measure_restored(weights, restored, kMxBlock, scales, 6.0f, result);
  return result;
}

template <typename T>
WeightStatistics fast(const std::vector<T>& weights, const EncodedRow& encoded) {
  WeightStatistics result;
  mxfp4_measure(std::span<const T>(weights), encoded.packed, encoded.scales, result);
  return result;
}

// Sums of a block are at most 32 binary32 additions of squares, each with a rounding of 2^-24, and
// the subtraction before the square another: 34 x 2^-24 < 2.1e-6. Peak errors: a subtraction and a
// division.
void expect_equal(const WeightStatistics& found, const WeightStatistics& expected) {
  EXPECT_EQ(found.elements, expected.elements);
  EXPECT_EQ(found.clipped, expected.clipped);
  EXPECT_EQ(found.flushed, expected.flushed);
  EXPECT_EQ(found.scales, expected.scales);
  EXPECT_NEAR(found.signal, expected.signal, 2.1e-6 * expected.signal);
  EXPECT_NEAR(found.noise, expected.noise, 2.1e-6 * expected.noise);
  EXPECT_NEAR(found.max_peak_error, expected.max_peak_error, 1e-6);
}

TEST(WeightStatistics, CountedByHand) {
  // Scale 1: 6.5 is clipped to 6, 0.2 is flushed; the errors are 0.5, 0.2 and 0.25 (1.25 -> 1).
  std::vector<float> weights(32, 0.0f);
  weights[0] = 6.5f;
  weights[1] = -0.2f;
  weights[2] = 1.25f;
  weights[3] = 3.0f;
  const WeightStatistics found = fast(weights, encode_row(weights));
  EXPECT_EQ(found.elements, 32u);
  EXPECT_EQ(found.clipped, 1u);
  EXPECT_EQ(found.flushed, 1u);
  EXPECT_NEAR(found.signal, 42.25 + 0.04 + 1.5625 + 9, 1e-5);
  EXPECT_NEAR(found.noise, 0.25 + 0.04 + 0.0625, 1e-6);
  EXPECT_NEAR(found.max_peak_error, 0.5 / 6.5, 1e-7);
  EXPECT_EQ(found.scales[127], 1u);
  EXPECT_NEAR(found.sqnr_db(), 10 * std::log10(52.8525 / 0.3525), 1e-4);
  EXPECT_TRUE(std::isinf(
      fast(std::vector<float>(64, 0.0f), encode_row(std::vector<float>(64, 0.0f))).sqnr_db()));
}

TEST(WeightStatistics, SimdEqualsPlain) {
  const std::uint32_t seed = 20260;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<float> weights;
  std::vector<BF16> bf16;
  std::vector<FP16> fp16;
  // Blocks of every magnitude, of wide and narrow spread, with zeros between.
  for (std::uint32_t block = 0; block < 3000; ++block) {
    const std::uint32_t base = block % 253;  // above it a decoded value may overflow binary32
    const std::uint32_t spread = 1 + next(random) % 12;
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      const std::uint32_t exponent = base - std::min(base, next(random) % spread);
      std::uint32_t bits = exponent << 23 | (next(random) & 0x7F'FFFF);
      if (next(random) % 8 == 0) bits = 0;
      weights.push_back(std::bit_cast<float>(bits | (next(random) & 0x8000'0000u)));
      bf16.push_back(
          {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(weights.back()) >> 16)});
      fp16.push_back({static_cast<std::uint16_t>(next(random) & 0xBBFF)});
    }
  }
  std::vector<float> wide_bf16(bf16.size()), wide_fp16(fp16.size());
  bf16_to_float(bf16, wide_bf16);
  fp16_to_float(fp16, wide_fp16);
  const EncodedRow of_f32 = encode_row(weights), of_bf16 = encode_row(bf16),
                   of_fp16 = encode_row(fp16);
  const WeightStatistics plain_f32 = plain(weights, of_f32);
  const WeightStatistics plain_bf16 = plain(wide_bf16, of_bf16);
  const WeightStatistics plain_fp16 = plain(wide_fp16, of_fp16);
  EXPECT_GT(plain_bf16.clipped, 0u);
  EXPECT_GT(plain_bf16.flushed, 0u);
  for_each_simd_target([&] {
    expect_equal(fast(weights, of_f32), plain_f32);
    expect_equal(fast(bf16, of_bf16), plain_bf16);
    expect_equal(fast(fp16, of_fp16), plain_fp16);
  });
}

// The sums are taken in double over all blocks, so a small block counts beside a huge one; the sum
// of parts is the whole.
TEST(WeightStatistics, Merge) {
  std::vector<float> a(64), b(96);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = 100 * std::cos(static_cast<float>(i));
  std::vector<float> both = a;
  both.insert(both.end(), b.begin(), b.end());
  WeightStatistics sum = plain(a, encode_row(a));
  sum.merge(plain(b, encode_row(b)));
  expect_equal(sum, plain(both, encode_row(both)));
}

}  // namespace
}  // namespace quern
