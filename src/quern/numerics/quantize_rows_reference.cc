// The plain versions of quantize_rows.h, one element at a time.
#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"
#include "quern/numerics/mxfp4.h"
#include "quern/numerics/quantize_rows.h"

namespace quern::quantize_rows_reference {
namespace {

float round_to(QuotientType type, float value) {
  switch (type) {
    case QuotientType::kBF16:
      return round_to_bf16(value);
    case QuotientType::kF16:
      return fp16_to_float(float_to_fp16(value));
    case QuotientType::kF32:
      break;
  }
  return value;
}

// Sign and code; zero is +0.
std::uint8_t encode_without_minus_zero(const MiniFloat& f, float value) {
  const std::uint8_t code = encode_magnitude(f, std::abs(value));
  return code != 0 && std::signbit(value) ? code | f.sign_bit() : code;
}

// Quark lets an infinite quotient through its rounding and packs its bits, which gives code 6.
std::uint8_t e2m1_of_quotient(float quotient) {
  if (std::isinf(quotient)) return std::signbit(quotient) ? 14 : 6;
  return encode_without_minus_zero(kE2M1, quotient);
}

}  // namespace

MinMax min_max(std::span<const float> in) {
  MinMax result{in[0], in[0], true};
  for (const float value : in) {
    result.finite = result.finite && std::isfinite(value);
    result.min = std::min(result.min, value);
    result.max = std::max(result.max, value);
  }
  return result;
}

void e4m3_encode(std::span<const float> in, float scale, QuotientType quotient,
                 std::span<std::uint8_t> out) {
  QUERN_CHECK(in.size() == out.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    const float value = round_to(quotient, in[i] / scale);
    const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
    const std::uint8_t code =
        std::isnan(value) ? std::uint8_t{0x7F} : encode_magnitude(kE4M3, std::abs(value));
    out[i] = sign | code;
  }
}

void integer_encode(std::span<const float> in, const IntegerGrid& grid,
                    std::span<std::int8_t> out) {
  QUERN_CHECK(in.size() == out.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    const float scaled = in[i] * grid.inverse_scale;
    const float rounded = std::nearbyint(scaled + static_cast<float>(grid.zero_point));
    out[i] = static_cast<std::int8_t>(
        std::clamp(rounded, static_cast<float>(grid.low), static_cast<float>(grid.high)));
  }
}

void e2m1_encode(std::span<const float> in, float scale, std::span<std::uint8_t> packed) {
  QUERN_CHECK(in.size() == 2 * packed.size());
  for (std::size_t j = 0; j < packed.size(); ++j) {
    const std::uint8_t low = e2m1_of_quotient(in[2 * j] / scale);
    const std::uint8_t high = e2m1_of_quotient(in[2 * j + 1] / scale);
    packed[j] = static_cast<std::uint8_t>(low | high << 4);
  }
}

bool mxfp6_encode_row(const MiniFloat& element, std::span<const float> in,
                      std::span<std::uint8_t> packed, std::span<std::uint8_t> scales) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && packed.size() == in.size() / 4 * 3 &&
              scales.size() == in.size() / kMxBlock);
  bool finite = true;
  for (std::size_t b = 0; b < scales.size(); ++b) {
    const auto block = in.subspan(b * kMxBlock, kMxBlock);
    const MinMax range = min_max(block);
    finite = finite && range.finite;
    const float amax = std::max(std::abs(range.min), std::abs(range.max));
    const int exponent = mx_scale_exponent(element, std::bit_cast<std::uint32_t>(amax));
    scales[b] = static_cast<std::uint8_t>(std::max(exponent, -126) + 127);
    const float scale = std::ldexp(1.0f, exponent);
    for (std::size_t i = 0; i < kMxBlock; i += 4) {
      std::uint32_t word = 0;
      for (std::size_t k = 0; k < 4; ++k) {
        word |= static_cast<std::uint32_t>(encode_without_minus_zero(element, block[i + k] / scale))
                << (6 * k);
      }
      for (std::size_t k = 0; k < 3; ++k) {
        packed[(b * kMxBlock + i) / 4 * 3 + k] = static_cast<std::uint8_t>(word >> (8 * k));
      }
    }
  }
  return finite;
}

}  // namespace quern::quantize_rows_reference
