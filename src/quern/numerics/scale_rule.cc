// See scale_rule.h.
#include "quern/numerics/scale_rule.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/mxfp4.h"
#include "quern/numerics/quantize_rows.h"

namespace quern {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"even", "floor", "ceil", "rceil", "search"};
constexpr int kMinExponent = -126;
constexpr int kMaxExponent = 127;

double squared_error(std::span<const float> block, std::span<const float> importance,
                     std::span<const std::uint8_t> packed, float scale) {
  double sum = 0.0;
  for (std::size_t i = 0; i < block.size(); ++i) {
    const unsigned code = i % 2 == 0 ? packed[i / 2] & 15u : packed[i / 2] >> 4;
    const double error = double{block[i]} - double{kE2M1Values[code]} * double{scale};
    sum += error * error * (importance.empty() ? 1.0 : double{importance[i]});
  }
  return sum;
}

// Encodes by the best of three exponents, the middle one first; returns it.
int search(int even, std::span<const float> block, std::span<const float> importance,
           std::span<std::uint8_t> packed) {
  std::array<std::uint8_t, kMxBlock / 2> trial;
  int best = even;
  double least = 0.0;
  for (const int exponent : {even, even - 1, even + 1}) {
    if (exponent < kMinExponent || exponent > kMaxExponent) continue;
    const float scale = std::ldexp(1.0f, exponent);
    e2m1_encode(block, scale, trial);
    const double error = squared_error(block, importance, trial, scale);
    if (exponent != even && error >= least) continue;
    best = exponent;
    least = error;
    std::ranges::copy(trial, packed.begin());
  }
  return best;
}

}  // namespace

std::optional<ScaleRule> scale_rule_from_name(std::string_view name) {
  const auto* found = std::ranges::find(kNames, name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<ScaleRule>(found - kNames.begin());
}

std::string_view scale_rule_name(ScaleRule rule) { return kNames[static_cast<std::size_t>(rule)]; }

int scale_exponent(ScaleRule rule, float amax) {
  if (rule == ScaleRule::kEven || rule == ScaleRule::kSearch) {
    return std::max(mxfp4_scale_exponent(std::bit_cast<std::uint32_t>(amax)), kMinExponent);
  }
  if (amax == 0.0f) return kMinExponent;
  int exponent = 0;
  const float mantissa = 2.0f * std::frexp(amax, &exponent);  // 1 <= mantissa < 2
  --exponent;
  const bool up = (rule == ScaleRule::kCeil && mantissa > 1.0f) ||
                  (rule == ScaleRule::kRceil && mantissa > 1.5f);
  return std::clamp(exponent - (up ? 1 : 2), kMinExponent, kMaxExponent);
}

bool mxfp4_encode_row_by_rule(ScaleRule rule, std::span<const float> in,
                              std::span<const float> importance, std::span<std::uint8_t> packed,
                              std::span<std::uint8_t> scales) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && packed.size() == in.size() / 2 &&
              scales.size() == in.size() / kMxBlock &&
              (importance.empty() || importance.size() == in.size()));
  for (std::size_t b = 0; b < scales.size(); ++b) {
    const auto block = in.subspan(b * kMxBlock, kMxBlock);
    const auto out = packed.subspan(b * kMxBlock / 2, kMxBlock / 2);
    const MinMax range = min_max(block);
    if (!range.finite) return false;
    int exponent = scale_exponent(rule, std::max(std::abs(range.min), std::abs(range.max)));
    if (rule == ScaleRule::kSearch) {
      const auto weights =
          importance.empty() ? importance : importance.subspan(b * kMxBlock, kMxBlock);
      exponent = search(exponent, block, weights, out);
    } else {
      e2m1_encode(block, std::ldexp(1.0f, exponent), out);
    }
    scales[b] = static_cast<std::uint8_t>(exponent + 127);
  }
  return true;
}

}  // namespace quern
