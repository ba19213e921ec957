// quantize_rows.h with Google Highway; one source for all instruction sets, chosen at run time.
// Must never differ from quantize_rows_reference.cc by a bit.
// Proved by tests/numerics/quantize_rows_test.cc.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/numerics/quantize_rows.cc"
#include "quern/numerics/quantize_rows.h"

#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "quern/base/error.h"
#include "quern/numerics/convert-inl.h"
#include "quern/numerics/mxfp4.h"

HWY_BEFORE_NAMESPACE();
namespace quern {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that a group of 16 or a block of 32 is whole vectors.
using DF = hn::CappedTag<float, 16>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

HWY_INLINE VU u32(std::uint32_t bits) { return hn::Set(DU(), bits); }

// encode_magnitude() of minifloat.h on lanes; the branches on `f` are the same for all lanes.
HWY_INLINE VU magnitude_codes(const MiniFloat& f, VU bits) {
  const int drop = 23 - f.mantissa_bits;
  const auto shift = static_cast<int>(drop);
  const auto smallest_normal = static_cast<std::uint32_t>(128 - f.bias) << 23;
  const auto magic = static_cast<std::uint32_t>(128 - f.bias + drop) << 23;
  const VU small =
      hn::Sub(hn::BitCast(DU(), hn::Add(hn::BitCast(DF(), bits), hn::BitCast(DF(), u32(magic)))),
              u32(magic));
  const VU lowest = hn::And(hn::ShiftRightSame(bits, shift), u32(1));
  const VU rounded = hn::Add(bits, hn::Add(lowest, u32((1u << (drop - 1)) - 1)));
  const VU large = hn::Sub(hn::ShiftRightSame(rounded, shift),
                           u32(static_cast<std::uint32_t>(127 - f.bias) << f.mantissa_bits));
  const VU code = hn::IfThenElse(hn::Lt(bits, u32(smallest_normal)), small, large);
  return hn::Min(code, u32(f.max_code));
}

// With the sign, zero being +0.
HWY_INLINE VU codes_without_minus_zero(const MiniFloat& f, VF value) {
  const VU bits = hn::BitCast(DU(), value);
  const VU code = magnitude_codes(f, hn::And(bits, u32(0x7FFF'FFFF)));
  const VU sign =
      hn::ShiftRightSame(hn::And(bits, u32(0x8000'0000)), 31 - f.exponent_bits - f.mantissa_bits);
  return hn::Or(code, hn::IfThenZeroElse(hn::Eq(code, hn::Zero(DU())), sign));
}

HWY_INLINE VF round_quotient(QuotientType type, VF value) {
  const VU bits = hn::BitCast(DU(), value);
  if (type == QuotientType::kBF16) {
    const VU rounded =
        hn::Add(bits, hn::Add(u32(0x7FFF), hn::And(hn::ShiftRight<16>(bits), u32(1))));
    const auto is_nan = hn::Gt(hn::And(bits, u32(0x7FFF'FFFF)), u32(0x7F80'0000));
    return hn::BitCast(DF(), hn::IfThenElse(is_nan, bits, hn::And(rounded, u32(0xFFFF'0000))));
  }
  if (type == QuotientType::kF16) {
    return hn::BitCast(DF(), widen_fp16_lanes(DU(), narrow_fp16_lanes(DU(), bits)));
  }
  return value;
}

std::size_t min_max_lanes(const float* HWY_RESTRICT in, std::size_t count, MinMax& result) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  if (count < lanes) return 0;
  VF low = hn::LoadU(d, in);
  VF high = low;
  VU exponents = hn::Zero(DU());
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const VF value = hn::LoadU(d, in + i);
    low = hn::Min(low, value);
    high = hn::Max(high, value);
    exponents = hn::Max(exponents, hn::And(hn::BitCast(DU(), value), u32(0x7FFF'FFFF)));
  }
  result.min = hn::GetLane(hn::MinOfLanes(d, low));
  result.max = hn::GetLane(hn::MaxOfLanes(d, high));
  result.finite = hn::GetLane(hn::MaxOfLanes(DU(), exponents)) < 0x7F80'0000u;
  return i;
}

std::size_t e4m3_lanes(const float* HWY_RESTRICT in, std::size_t count, float scale,
                       QuotientType quotient, std::uint8_t* HWY_RESTRICT out) {
  const DF d;
  const hn::Rebind<std::uint8_t, DU> d8;
  const VF divisor = hn::Set(d, scale);
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    const VF value = round_quotient(quotient, hn::Div(hn::LoadU(d, in + i), divisor));
    const VU bits = hn::BitCast(DU(), value);
    const VU magnitude = hn::And(bits, u32(0x7FFF'FFFF));
    const auto is_nan = hn::Gt(magnitude, u32(0x7F80'0000));
    const VU code = hn::IfThenElse(is_nan, u32(0x7F), magnitude_codes(kE4M3, magnitude));
    const VU sign = hn::ShiftLeft<7>(hn::ShiftRight<31>(bits));
    hn::StoreU(hn::TruncateTo(d8, hn::Or(code, sign)), d8, out + i);
  }
  return i;
}

std::size_t integer_lanes(const float* HWY_RESTRICT in, std::size_t count, const IntegerGrid& grid,
                          std::int8_t* HWY_RESTRICT out) {
  const DF d;
  const hn::Rebind<std::int8_t, DI> d8;
  const VF inverse = hn::Set(d, grid.inverse_scale);
  const VF zero_point = hn::Set(d, static_cast<float>(grid.zero_point));
  const VF low = hn::Set(d, static_cast<float>(grid.low));
  const VF high = hn::Set(d, static_cast<float>(grid.high));
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    // Two roundings, as torch: the product, then the sum.
    const VF scaled = hn::Mul(hn::LoadU(d, in + i), inverse);
    const VF rounded = hn::Round(hn::Add(scaled, zero_point));
    const auto whole = hn::ConvertTo(DI(), hn::Min(hn::Max(rounded, low), high));
    hn::StoreU(hn::DemoteTo(d8, whole), d8, out + i);
  }
  return i;
}

// Codes, one a byte.
HWY_INLINE void store_codes(const MiniFloat& f, const float* HWY_RESTRICT in, std::size_t count,
                            VF scale, std::uint8_t* HWY_RESTRICT codes) {
  const DF d;
  const hn::Rebind<std::uint8_t, DU> d8;
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const VF quotient = hn::Div(hn::LoadU(d, in + i), scale);
    VU code = codes_without_minus_zero(f, quotient);
    // Only E2M1 has infinite quotients; 7 becomes 6, see the header.
    const auto infinite =
        hn::Eq(hn::And(hn::BitCast(DU(), quotient), u32(0x7FFF'FFFF)), u32(0x7F80'0000));
    code = hn::Sub(code, hn::IfThenElseZero(infinite, u32(1)));
    hn::StoreU(hn::TruncateTo(d8, code), d8, codes + i);
  }
}

std::size_t e2m1_lanes(const float* HWY_RESTRICT in, std::size_t count, float scale,
                       std::uint8_t* HWY_RESTRICT packed) {
  constexpr std::size_t kStep = 16;
  std::array<std::uint8_t, kStep> codes;
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    store_codes(kE2M1, in + i, kStep, hn::Set(DF(), scale), codes.data());
    for (std::size_t j = 0; j < kStep / 2; ++j) {
      packed[i / 2 + j] = static_cast<std::uint8_t>(codes[2 * j] | codes[2 * j + 1] << 4);
    }
  }
  return i;
}

bool mxfp6_lanes(const MiniFloat& f, const float* HWY_RESTRICT in, std::size_t blocks,
                 std::uint8_t* HWY_RESTRICT packed, std::uint8_t* HWY_RESTRICT scales) {
  const DU d;
  std::uint32_t largest = 0;
  std::array<std::uint8_t, kMxBlock> codes;
  for (std::size_t b = 0; b < blocks; ++b) {
    const float* block = in + b * kMxBlock;
    VU amax = hn::Zero(d);
    for (std::size_t i = 0; i < kMxBlock; i += hn::Lanes(d)) {
      const VU bits = hn::BitCast(d, hn::LoadU(DF(), block + i));
      amax = hn::Max(amax, hn::And(bits, u32(0x7FFF'FFFF)));
    }
    const std::uint32_t bits = hn::GetLane(hn::MaxOfLanes(d, amax));
    largest = std::max(largest, bits);
    if (bits >= 0x7F80'0000u) continue;
    const int exponent = mx_scale_exponent(f, bits);
    scales[b] = static_cast<std::uint8_t>(std::max(exponent, -126) + 127);
    const auto scale_bits =
        exponent == -127 ? 0x0040'0000u : static_cast<std::uint32_t>(exponent + 127) << 23;
    store_codes(f, block, kMxBlock, hn::BitCast(DF(), u32(scale_bits)), codes.data());
    for (std::size_t i = 0; i < kMxBlock; i += 4) {
      std::uint32_t w;
      std::memcpy(&w, codes.data() + i, 4);
      w = (w & 0x3F) | (w >> 2 & 0xFC0) | (w >> 4 & 0x3'F000) | (w >> 6 & 0xFC'0000);
      std::memcpy(packed + (b * kMxBlock + i) / 4 * 3, &w, 3);
    }
  }
  return largest < 0x7F80'0000u;
}

}  // namespace HWY_NAMESPACE
}  // namespace quern
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern {
namespace {

namespace reference = quantize_rows_reference;

HWY_EXPORT(min_max_lanes);
HWY_EXPORT(e4m3_lanes);
HWY_EXPORT(integer_lanes);
HWY_EXPORT(e2m1_lanes);
HWY_EXPORT(mxfp6_lanes);

}  // namespace

MinMax min_max(std::span<const float> in) {
  QUERN_CHECK(!in.empty());
  MinMax result;
  const std::size_t done = HWY_DYNAMIC_DISPATCH(min_max_lanes)(in.data(), in.size(), result);
  if (done == in.size()) return result;
  const MinMax rest = reference::min_max(in.subspan(done));
  if (done == 0) return rest;
  return {std::min(result.min, rest.min), std::max(result.max, rest.max),
          result.finite && rest.finite};
}

void e4m3_encode(std::span<const float> in, float scale, QuotientType quotient,
                 std::span<std::uint8_t> out) {
  QUERN_CHECK(in.size() == out.size());
  const std::size_t done =
      HWY_DYNAMIC_DISPATCH(e4m3_lanes)(in.data(), in.size(), scale, quotient, out.data());
  reference::e4m3_encode(in.subspan(done), scale, quotient, out.subspan(done));
}

void integer_encode(std::span<const float> in, const IntegerGrid& grid,
                    std::span<std::int8_t> out) {
  QUERN_CHECK(in.size() == out.size());
  const std::size_t done =
      HWY_DYNAMIC_DISPATCH(integer_lanes)(in.data(), in.size(), grid, out.data());
  reference::integer_encode(in.subspan(done), grid, out.subspan(done));
}

void e2m1_encode(std::span<const float> in, float scale, std::span<std::uint8_t> packed) {
  QUERN_CHECK(in.size() == 2 * packed.size());
  const std::size_t done =
      HWY_DYNAMIC_DISPATCH(e2m1_lanes)(in.data(), in.size(), scale, packed.data());
  reference::e2m1_encode(in.subspan(done), scale, packed.subspan(done / 2));
}

bool mxfp6_encode_row(const MiniFloat& element, std::span<const float> in,
                      std::span<std::uint8_t> packed, std::span<std::uint8_t> scales) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && packed.size() == in.size() / 4 * 3 &&
              scales.size() == in.size() / kMxBlock);
  return HWY_DYNAMIC_DISPATCH(mxfp6_lanes)(element, in.data(), scales.size(), packed.data(),
                                           scales.data());
}

}  // namespace quern
#endif  // HWY_ONCE
