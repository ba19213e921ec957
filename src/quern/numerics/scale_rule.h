// Other ways to choose the scale of an MXFP4 block; the format and every reader stay the same.
// Must never be what Quark parity is tested with: "even" is in mxfp4.h, and the default.
// Proved by tests/numerics/scale_rule_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace quern {

// With the largest magnitude m * 2^E of a block, 1 <= m < 2, the scale is 2^(E - 2), or 2^(E - 1)
// when
enum class ScaleRule : std::uint8_t {
  kEven,    // m >= 1.75: at most a seventh of the largest value is clipped
  kFloor,   // never: OCP's rule, a quarter may be clipped
  kCeil,    // m > 1: nothing is clipped
  kRceil,   // m > 1.5: nothing is clipped, scale of amax / 6 rounded up
  kSearch,  // the exponent of kEven, one less or one more, by the least squared error
};

std::optional<ScaleRule> scale_rule_from_name(std::string_view name);
std::string_view scale_rule_name(ScaleRule rule);

// The exponent of the scale, -126..127, for a largest magnitude that is finite. For kSearch that of
// kEven.
int scale_exponent(ScaleRule rule, float amax);

// As mxfp4_encode_row. `importance` (for kSearch): empty, or the weight of each element's squared
// error, none negative. Of exponents with equal errors that of kEven wins, then the smaller.
[[nodiscard]] bool mxfp4_encode_row_by_rule(ScaleRule rule, std::span<const float> in,
                                            std::span<const float> importance,
                                            std::span<std::uint8_t> packed,
                                            std::span<std::uint8_t> scales);

}  // namespace quern
