// MXFP4: worked examples, a bulk hash, an independent formulation, and SIMD against the reference.
#include "quern/numerics/mxfp4.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "tests/numerics/targets.h"

namespace quern {
namespace {

struct Encoded {
  bool finite = false;
  std::vector<std::uint8_t> packed, scales;
  bool operator==(const Encoded&) const = default;
};

template <typename T>
Encoded encode(std::span<const T> in) {
  Encoded out{false, std::vector<std::uint8_t>(in.size() / 2),
              std::vector<std::uint8_t>(in.size() / 32)};
  out.finite = mxfp4_encode_row(in, out.packed, out.scales);
  return out;
}

template <typename T>
Encoded encode_reference(std::span<const T> in) {
  Encoded out{false, std::vector<std::uint8_t>(in.size() / 2),
              std::vector<std::uint8_t>(in.size() / 32)};
  out.finite = mxfp4_reference::encode_row(in, out.packed, out.scales);
  return out;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += "0123456789ABCDEF"[byte >> 4];
    text += "0123456789ABCDEF"[byte & 15];
  }
  return text;
}

std::vector<BF16> from_values(std::vector<float> values) {
  values.resize(kMxBlock);
  std::vector<BF16> out;
  for (const float value : values) {
    out.push_back(float_to_bf16(value));
  }
  return out;
}

std::vector<BF16> from_bits(std::vector<std::uint16_t> bits) {
  bits.resize(kMxBlock);
  std::vector<BF16> out;
  for (const std::uint16_t b : bits) out.push_back({b});
  return out;
}

std::vector<float> tiny_values() {
  std::vector<float> values;
  for (int i = 0; i < 32; ++i) {
    const double magnitude = std::ldexp(1 + 0.25 * (i % 4), -20 - i / 4);
    values.push_back(static_cast<float>(i % 2 ? -magnitude : magnitude));
  }
  return values;
}

const std::vector<float> kDescending = {7,    6.96875f, 6,     5.5f, 5,     4, 3.5f,  3,
                                        2.5f, 2,        1.75f, 1.5f, 1.25f, 1, 0.75f, 0.5f};

std::vector<float> with_negatives(std::vector<float> values) {
  const std::size_t half = values.size();
  for (std::size_t i = 0; i < half; ++i) values.push_back(-values[i]);
  return values;
}

std::vector<float> replaced(std::vector<float> values, float from, float to) {
  for (float& value : values) value = value == from ? to : value == -from ? -to : value;
  return values;
}

struct Example {
  const char* name;
  std::vector<BF16> in;
  const char* scale;
  const char* packed;
};

// Worked by hand from Quark's rules; each shows one thing.
std::vector<Example> examples() {
  const std::vector<float> grid = {0,    .5f,  1,  1.5f,  2,  3,  4,  6,
                                   -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
  std::vector<float> grid_twice = grid;
  grid_twice.insert(grid_twice.end(), grid.begin(), grid.end());
  return {
      {"every value of the grid; -0 becomes +0", from_values(grid_twice), "7F",
       "1032547690BADCFE1032547690BADCFE"},
      {"1.75 * 2^2 rounds the scale up", from_values(with_negatives(kDescending)), "80",
       "5655443422221101DEDDCCBCAAAA9909"},
      {"below it values above 6 saturate",
       from_values(with_negatives(replaced(kDescending, 7, 6.96875f))), "7F",
       "7777665644342212FFFFEEDECCBCAA9A"},
      {"zeros", from_values({}), "01", "00000000000000000000000000000000"},
      {"tiny values; negatives that round to zero are +0", from_values(tiny_values()), "6A",
       "C4E5A2C391A290910000000000000000"},
      {"large values", from_bits({0x447A, 0xC529, 0x458A, 0xC5BF, 0x45F4, 0xC614, 0x462F, 0xC64A,
                                  0x4664, 0xC67F, 0x468D, 0xC69A, 0x46A7, 0xC6B4, 0x46C2, 0xC6CF,
                                  0x46DC, 0xC6EA, 0x46F7, 0xC702, 0x4709, 0xC70F, 0x4716, 0xC71D,
                                  0x4723, 0xC72A, 0x4731, 0xC737, 0x473E, 0xC744, 0x474B, 0xC752}),
       "8C", "9091A2B3C4C4D5D5E5E6E6E6F7F7F7F7"},
      {"ties, and values just beside them",
       from_values({.25f,
                    -.25f,
                    .75f,
                    -.75f,
                    1.25f,
                    -1.25f,
                    1.75f,
                    -1.75f,
                    2.5f,
                    -2.5f,
                    3.5f,
                    -3.5f,
                    5,
                    -5,
                    .251953125f,
                    -.251953125f,
                    .248046875f,
                    -.248046875f,
                    .74609375f,
                    .75390625f,
                    1.2421875f,
                    1.2578125f,
                    2.484375f,
                    2.515625f,
                    3.484375f,
                    3.515625f,
                    4.96875f,
                    5.03125f,
                    -0.f,
                    0,
                    bf16_to_float({0x3A83}),
                    bf16_to_float({0xBA83})}),
       "7F", "00A2A2C4C4E6E6910021325465760000"},
      {"weights as they look",
       from_bits({0xBC36, 0x3CF5, 0xBC95, 0x3C6E, 0x3C71, 0xBB17, 0x3D12, 0x3C31,
                  0x3B90, 0x3BC9, 0x3C8D, 0x3C52, 0xBBBF, 0xBCB4, 0xBD3F, 0xBCDB,
                  0x3C23, 0x3B9F, 0x3C96, 0x3C31, 0x3B1F, 0xBC99, 0x3C04, 0xBC71,
                  0xBC92, 0x3A84, 0x3C84, 0x3C4D, 0x3D0D, 0xBCF0, 0x3C06, 0xBA47}),
       "78", "6B4C94362134D9DF1334C1C20C34E602"},
      {"rounding overflows: scale 2^127", from_bits({0x7F62, 0xFF78, 0x7E96, 0x7E16}), "FE",
       "C4110000000000000000000000000000"},
      {"subnormals: codes for 2^-127, stored as 2^-126",
       from_bits({0x0100, 0x80C0, 0x0040, 0x0020}), "01", "D6120000000000000000000000000000"},
  };
}

TEST(Mxfp4, WorkedExamples) {
  for (const Example& example : examples()) {
    SCOPED_TRACE(example.name);
    std::vector<float> wide(kMxBlock);
    bf16_to_float(example.in, wide);
    const Encoded reference = encode_reference<BF16>(example.in);
    EXPECT_EQ(hex(reference.packed), example.packed);
    EXPECT_EQ(hex(reference.scales), example.scale);
    EXPECT_TRUE(reference.finite);
    EXPECT_EQ(encode_reference<float>(wide), reference);
    for_each_simd_target([&] {
      EXPECT_EQ(encode<BF16>(example.in), reference);
      EXPECT_EQ(encode<float>(wide), reference);
    });
  }
}

std::uint64_t fnv1a(std::span<const std::uint8_t> bytes) {
  std::uint64_t hash = 1469598103934665603u;
  for (const std::uint8_t byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  return hash;
}

TEST(Mxfp4, BulkHash) {
  std::vector<BF16> in(131072);
  std::uint64_t s = 1;
  for (BF16& value : in) {
    s = s * 6364136223846793005u + 1442695040888963407u;
    value.bits = static_cast<std::uint16_t>((s >> 63) << 15 | (110 + (s >> 40 & 0xFF) % 21) << 7 |
                                            (s >> 33 & 0x7F));
  }
  for_each_simd_target([&] {
    const Encoded out = encode<BF16>(in);
    EXPECT_EQ(hex(std::span(out.packed).first(16)),
              "000900601000"
              "2C00"
              "0000C000"
              "01600004");
    EXPECT_EQ(fnv1a(out.packed), 0xc5705fe3956be555u);
    EXPECT_EQ(fnv1a(out.scales), 0x70b38f71e8179136u);
    std::array<int, 16> histogram{};
    for (const std::uint8_t byte : out.packed) {
      ++histogram[byte & 15];
      ++histogram[byte >> 4];
    }
    EXPECT_EQ(histogram, (std::array<int, 16>{101173, 4572, 2382, 1459, 1550, 1471, 2175, 1361, 0,
                                              4550, 2364, 1503, 1506, 1475, 2157, 1374}));
  });
}

// The nearest E2M1 code by distance, in double; of two equally near ones the even.
int nearest_code(double q) {
  int best = 0;
  for (int code = 1; code < 8; ++code) {
    const double error = std::abs(q - double{kE2M1Values[static_cast<std::size_t>(code)]});
    const double best_error = std::abs(q - double{kE2M1Values[static_cast<std::size_t>(best)]});
    if (error < best_error || (error == best_error && code % 2 == 0)) best = code;
  }
  return best;
}

// The scale exponent by its table: amax = m * 2^E gives E - 2 for m < 1.75, otherwise E - 1;
// Quark's rounding overflows at the top to 127, and nothing goes below -127.
int scale_exponent_by_table(double amax) {
  if (amax >= std::ldexp(1.75, 127)) return 127;
  if (amax == 0) return -127;
  int exponent = 0;
  const double m = 2 * std::frexp(amax, &exponent);
  return std::max(exponent - 1 - (m < 1.75 ? 2 : 1), -127);
}

TEST(Mxfp4, ScaleExponentOfEveryBf16) {
  for (std::uint32_t magnitude = 0; magnitude < 0x7F80; ++magnitude) {
    const double amax = bf16_to_float({static_cast<std::uint16_t>(magnitude)});
    ASSERT_EQ(mxfp4_scale_exponent(magnitude << 16), scale_exponent_by_table(amax)) << amax;
  }
}

// The largest BF16 magnitude whose scale exponent is the one asked for; -1 when none has it (126:
// the overflow at the top jumps from 125 to 127).
int largest_magnitude_with(int exponent) {
  for (int magnitude = 0x7F7F; magnitude >= 0; --magnitude) {
    if (mxfp4_scale_exponent(static_cast<std::uint32_t>(magnitude) << 16) == exponent)
      return magnitude;
  }
  return -1;
}

// Every finite BF16 value that a block of the given scale exponent can hold, both signs; each block
// begins with the value that sets the scale.
std::vector<BF16> all_values_below(std::uint16_t top) {
  std::vector<BF16> row;
  for (std::uint32_t magnitude = 0; magnitude <= top; ++magnitude) {
    for (const std::uint32_t sign : {0u, 0x8000u}) {
      if (row.size() % kMxBlock == 0) row.push_back({top});
      row.push_back({static_cast<std::uint16_t>(magnitude | sign)});
    }
  }
  row.resize((row.size() + kMxBlock - 1) / kMxBlock * kMxBlock, {0});
  return row;
}

// An independent formulation, in double.
std::uint8_t expected_code(double value, int exponent) {
  const int code = nearest_code(std::ldexp(std::abs(value), -exponent));
  return static_cast<std::uint8_t>(std::signbit(value) && code != 0 ? code | 8 : code);
}

TEST(Mxfp4, ExhaustiveOverBf16AndScales) {
  int scales = 0;
  for (int exponent = -127; exponent <= 127; ++exponent) {
    const int top = largest_magnitude_with(exponent);
    if (top < 0) continue;
    ++scales;
    const std::vector<BF16> row = all_values_below(static_cast<std::uint16_t>(top));
    const Encoded reference = encode_reference<BF16>(row);
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double value = bf16_to_float(row[i]);
      ASSERT_EQ(reference.packed[i / 2] >> (i % 2 * 4) & 15, expected_code(value, exponent))
          << value << " at exponent " << exponent;
    }
    for (const std::uint8_t scale : reference.scales)
      ASSERT_EQ(scale, std::max(exponent, -126) + 127);
    std::vector<float> wide(row.size());
    bf16_to_float(row, wide);
    for_each_simd_target([&] {
      ASSERT_EQ(encode<BF16>(row), reference) << exponent;
      ASSERT_EQ(encode<float>(wide), reference) << exponent;
    });
  }
  EXPECT_EQ(scales, 254);
}

// Random binary32 with exponents near each other in a block, ties, zeros, subnormals, far outliers.
std::vector<float> random_floats(std::mt19937& random, std::size_t blocks) {
  std::vector<float> out;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::uint32_t base = next(random) % 255;
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      const std::uint32_t drop = next(random) % 8;
      std::uint32_t exponent = base > drop ? base - drop : 0;
      if (next(random) % 16 == 0) exponent = next(random) % (base + 1);
      // Mantissas on a tie, one beside it, or any.
      std::uint32_t mantissa = next(random) & 0x7F'FFFF;
      const std::uint32_t kind = next(random) % 4;
      if (kind < 3) mantissa = (mantissa & 0x70'0000) + (kind == 1 ? 1 : 0) - (kind == 2 ? 1 : 0);
      const std::uint32_t bits = (exponent << 23) + (mantissa & 0x7F'FFFF);
      out.push_back(std::bit_cast<float>(bits | (next(random) & 0x8000'0000u)));
    }
  }
  return out;
}

TEST(Mxfp4, RandomF32AndFp16) {
  const std::uint32_t seed = 424242;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const std::vector<float> f32 = random_floats(random, 40000);
  std::vector<FP16> fp16(65 * kMxBlock * 32 + kMxBlock);  // not a multiple of the conversion piece
  for (std::size_t i = 0; i < fp16.size(); ++i) {
    const std::uint32_t exponent =
        std::min(30u, static_cast<std::uint32_t>(i / kMxBlock % 31) + next(random) % 4);
    fp16[i].bits = static_cast<std::uint16_t>((next(random) & 0x83FFu) | exponent << 10);
  }
  std::vector<float> wide(fp16.size());
  fp16_to_float(fp16, wide);
  const Encoded reference_f32 = encode_reference<float>(f32);
  const Encoded reference_fp16 = encode_reference<FP16>(fp16);
  EXPECT_TRUE(reference_f32.finite);
  EXPECT_EQ(encode_reference<float>(wide), reference_fp16);
  for (std::size_t i = 0; i < f32.size(); ++i) {
    const std::size_t block = i / kMxBlock * kMxBlock;
    double amax = 0;
    for (std::size_t k = block; k < block + kMxBlock; ++k)
      amax = std::max(amax, std::abs(double{f32[k]}));
    const int exponent = scale_exponent_by_table(amax);
    ASSERT_EQ(reference_f32.packed[i / 2] >> (i % 2 * 4) & 15, expected_code(f32[i], exponent))
        << f32[i] << " in a block of " << amax;
  }
  for_each_simd_target([&] {
    EXPECT_EQ(encode<float>(f32), reference_f32);
    EXPECT_EQ(encode<FP16>(fp16), reference_fp16);
  });
}

TEST(Mxfp4, InfAndNaNAreReported) {
  for (const std::uint16_t bad : std::to_array<std::uint16_t>({0x7F80, 0xFF80, 0x7F81, 0xFFC0})) {
    for (const std::size_t at :
         {std::size_t{0}, std::size_t{31}, std::size_t{64}, std::size_t{95}}) {
      std::vector<BF16> in(96, BF16{0x3F80});
      in[at].bits = bad;
      std::vector<float> wide(in.size());
      bf16_to_float(in, wide);
      std::vector<FP16> half(in.size());
      float_to_fp16(wide, half);
      for_each_simd_target([&] {
        EXPECT_FALSE(encode<BF16>(in).finite);
        EXPECT_FALSE(encode<float>(wide).finite);
        EXPECT_FALSE(encode<FP16>(half).finite);
        std::vector<std::int8_t> codes(wide.size());
        std::vector<std::uint8_t> scales(wide.size() / kMxBlock);
        mxfp4_quantize_activations(wide, codes, scales);
        std::vector<float> out(wide.size());
        mxfp4_qdq(wide, out);
        for (std::size_t b = 0; b < scales.size(); ++b) {
          EXPECT_EQ(scales[b] == kE8M0NaN, b == at / kMxBlock);
          EXPECT_EQ(std::isnan(out[b * kMxBlock + 5]), b == at / kMxBlock);
        }
      });
      EXPECT_FALSE(encode_reference<BF16>(in).finite);
    }
  }
}

TEST(Mxfp4, ActivationsEqualReference) {
  const std::uint32_t seed = 7;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<float> in = random_floats(random, 40000);
  for (float& value : in)
    value = bf16_to_float(BF16{static_cast<std::uint16_t>(bits_of(value) >> 16)});
  std::vector<std::int8_t> codes(in.size()), expected_codes(in.size());
  std::vector<std::uint8_t> scales(in.size() / kMxBlock), expected_scales(scales.size());
  std::vector<float> out(in.size()), expected(in.size());
  mxfp4_reference::quantize_activations(in, expected_codes, expected_scales);
  mxfp4_reference::qdq(in, expected);
  // Where no scale is at an end of its range, activations are the weights' codes.
  const Encoded weights = encode_reference<float>(in);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::size_t code = weights.packed[i / 2] >> (i % 2 * 4) & 15;
    ASSERT_EQ(expected_codes[i], kE2M1Doubled[code]);
    const std::uint8_t scale = expected_scales[i / kMxBlock];
    ASSERT_EQ(weights.scales[i / kMxBlock], std::max<int>(scale, 1));
    ASSERT_EQ(std::signbit(expected[i]), std::signbit(in[i]));
    ASSERT_EQ(double{expected[i]}, scale == 254 && std::abs(expected_codes[i]) == 4
                                       ? double{std::copysign(INFINITY, in[i])}
                                       : std::ldexp(expected_codes[i], scale - 128));
  }
  for_each_simd_target([&] {
    mxfp4_quantize_activations(in, codes, scales);
    EXPECT_EQ(codes, expected_codes);
    EXPECT_EQ(scales, expected_scales);
    mxfp4_qdq(in, out);
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0);
    std::vector<float> in_place = in;
    mxfp4_qdq(in_place, in_place);
    EXPECT_EQ(std::memcmp(in_place.data(), expected.data(), out.size() * sizeof(float)), 0);
  });
}

TEST(Mxfp4, DecodeEveryByteAtEveryScale) {
  std::vector<std::uint8_t> packed, scales;
  for (int scale = 0; scale < 256; ++scale) {
    for (int byte = 0; byte < 256; ++byte) packed.push_back(static_cast<std::uint8_t>(byte));
    scales.insert(scales.end(), 16, static_cast<std::uint8_t>(scale));
  }
  std::vector<float> expected(packed.size() * 2), out(expected.size());
  mxfp4_reference::decode_row(packed, scales, expected);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const int scale = static_cast<int>(i / 512);
    const std::size_t code = i % 2 == 0 ? i / 2 % 16 : i / 2 % 256 / 16;
    const double value = std::ldexp(double{kE2M1Values[code]}, scale - 127);
    if (scale == 255) {
      ASSERT_TRUE(std::isnan(expected[i]));
    } else {
      ASSERT_EQ(bits_of(expected[i]), bits_of(static_cast<float>(value))) << value;
    }
  }
  std::vector<BF16> bf16(expected.size()), expected_bf16(expected.size());
  float_to_bf16(expected, expected_bf16);
  for_each_simd_target([&] {
    mxfp4_decode_row(packed, scales, out);
    mxfp4_decode_row(packed, scales, bf16);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (std::isnan(expected[i])) {
        ASSERT_TRUE(std::isnan(out[i]) && std::isnan(bf16_to_float(bf16[i])));
      } else {
        ASSERT_EQ(bits_of(out[i]), bits_of(expected[i])) << i;
        ASSERT_EQ(bf16[i], expected_bf16[i]) << i;
      }
    }
  });
}

TEST(Mxfp4DeathTest, WrongSizesAbort) {
  std::vector<BF16> in(33, BF16{0});
  std::vector<std::uint8_t> packed(16), scales(1);
  EXPECT_DEATH(static_cast<void>(mxfp4_encode_row(std::span<const BF16>(in), packed, scales)),
               "33 elements");
}

}  // namespace
}  // namespace quern
