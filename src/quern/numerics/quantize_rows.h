// Values of one scale to codes: FP8, small integers, FP4 with a free scale, FP6 blocks.
// Must never differ from what torch computes in AMD Quark: same order of operations, same
// intermediate rounding. Proved by tests/numerics/quantize_rows_test.cc (SIMD against the plain
// versions at the end) and by the comparison with Quark's files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quern/numerics/minifloat.h"

namespace quern {

// The dtype in which torch holds the quotient of a value and its scale: that of the weight.
enum class QuotientType : std::uint8_t { kBF16, kF16, kF32 };

struct MinMax {
  float min = 0.0f;
  float max = 0.0f;
  bool finite = true;  // no Inf or NaN among the values
};
// Not empty.
MinMax min_max(std::span<const float> in);

// out[i] = E4M3 of round(in[i] / scale), saturated at 448, the sign of zero kept. 0 / 0 is NaN,
// 0x7F or 0xFF as the processor signs it.
void e4m3_encode(std::span<const float> in, float scale, QuotientType quotient,
                 std::span<std::uint8_t> out);

// out[i] = in[i] * inverse_scale + zero_point, rounded to nearest even, clamped to [low, high].
struct IntegerGrid {
  float inverse_scale = 1.0f;
  std::int32_t zero_point = 0;
  std::int32_t low = -128;
  std::int32_t high = 127;
};
void integer_encode(std::span<const float> in, const IntegerGrid& grid, std::span<std::int8_t> out);

// in / scale to E2M1, two a byte, even index low; a result of zero is +0, an
// infinite quotient (a group that is tiny beside the rest of its tensor, scaled by epsilon) has the
// code of 4, as in Quark. in.size() is even.
void e2m1_encode(std::span<const float> in, float scale, std::span<std::uint8_t> packed);

// Blocks of 32: E3M2 or E2M3 codes, four in three bytes (little endian, first code lowest), and
// E8M0 scales by the rule "even", at least 1. A result of zero is +0. packed: [n * 3 / 4]. Returns
// false when an element is Inf or NaN.
[[nodiscard]] bool mxfp6_encode_row(const MiniFloat& element, std::span<const float> in,
                                    std::span<std::uint8_t> packed, std::span<std::uint8_t> scales);

// The plain versions: the oracle of the SIMD path above.
namespace quantize_rows_reference {

MinMax min_max(std::span<const float> in);
void e4m3_encode(std::span<const float> in, float scale, QuotientType quotient,
                 std::span<std::uint8_t> out);
void integer_encode(std::span<const float> in, const IntegerGrid& grid, std::span<std::int8_t> out);
void e2m1_encode(std::span<const float> in, float scale, std::span<std::uint8_t> packed);
[[nodiscard]] bool mxfp6_encode_row(const MiniFloat& element, std::span<const float> in,
                                    std::span<std::uint8_t> packed, std::span<std::uint8_t> scales);

}  // namespace quantize_rows_reference
}  // namespace quern
