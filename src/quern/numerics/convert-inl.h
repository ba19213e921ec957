// Conversions between binary32 and the 16-bit formats as Highway functions on 32-bit lanes.
// Must never differ from the scalar functions of bf16.h and fp16.h by a bit (integer operations
// only, because hardware conversions differ in NaN payloads and flush modes). Proved by
// tests/numerics/convert_test.cc.
#if defined(QUERN_NUMERICS_CONVERT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef QUERN_NUMERICS_CONVERT_INL_H
#undef QUERN_NUMERICS_CONVERT_INL_H
#else
#define QUERN_NUMERICS_CONVERT_INL_H
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quern {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// D is any tag of std::uint32_t lanes.

template <class D>
HWY_INLINE hn::Vec<D> widen_bf16_lanes(D, hn::Vec<D> bits) {
  return hn::ShiftLeft<16>(bits);
}

template <class D>
HWY_INLINE hn::Vec<D> narrow_bf16_lanes(D d, hn::Vec<D> bits) {
  const auto set = [d](std::uint32_t bits_of_lane) HWY_ATTR { return hn::Set(d, bits_of_lane); };
  const auto upper = hn::ShiftRight<16>(bits);
  const auto rounded = hn::Add(bits, hn::Add(set(0x7FFF), hn::And(upper, set(1))));
  const auto is_nan = hn::Gt(hn::And(bits, set(0x7FFF'FFFF)), set(0x7F80'0000));
  return hn::IfThenElse(is_nan, hn::Or(upper, set(0x40)), hn::ShiftRight<16>(rounded));
}

template <class D>
HWY_INLINE hn::Vec<D> widen_fp16_lanes(D d, hn::Vec<D> bits) {
  const auto set = [d](std::uint32_t bits_of_lane) HWY_ATTR { return hn::Set(d, bits_of_lane); };
  const hn::RebindToFloat<D> df;
  const auto magnitude = hn::And(bits, set(0x7FFF));
  const auto shifted = hn::ShiftLeft<13>(magnitude);
  const auto finite = hn::BitCast(d, hn::Mul(hn::BitCast(df, shifted), hn::Set(df, 0x1p112f)));
  const auto is_nan = hn::Gt(magnitude, set(0x7C00));
  const auto special = hn::Or(shifted, hn::IfThenElse(is_nan, set(0x7FC0'0000), set(0x7F80'0000)));
  const auto value = hn::IfThenElse(hn::Gt(magnitude, set(0x7BFF)), special, finite);
  return hn::Or(value, hn::ShiftLeft<16>(hn::And(bits, set(0x8000))));
}

template <class D>
HWY_INLINE hn::Vec<D> narrow_fp16_lanes(D d, hn::Vec<D> all) {
  const auto set = [d](std::uint32_t bits_of_lane) HWY_ATTR { return hn::Set(d, bits_of_lane); };
  const hn::RebindToFloat<D> df;
  const auto bits = hn::And(all, set(0x7FFF'FFFF));
  const auto shifted = hn::ShiftRight<13>(bits);
  const auto normal = hn::ShiftRight<13>(
      hn::Add(hn::Sub(bits, set((112u << 23) - 0xFFFu)), hn::And(shifted, set(1))));
  const auto subnormal =
      hn::Sub(hn::BitCast(d, hn::Add(hn::BitCast(df, bits), hn::Set(df, 0.5f))), set(0x3F00'0000));
  const auto nan = hn::Or(set(0x7E00), hn::And(shifted, set(0x3FF)));
  auto result = hn::IfThenElse(hn::Lt(bits, set(0x3880'0000)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(bits, set(0x477F'EFFF)), set(0x7C00), result);
  result = hn::IfThenElse(hn::Gt(bits, set(0x7F80'0000)), nan, result);
  return hn::Or(result, hn::And(hn::ShiftRight<16>(all), set(0x8000)));
}

}  // namespace HWY_NAMESPACE
}  // namespace quern
HWY_AFTER_NAMESPACE();

#endif  // QUERN_NUMERICS_CONVERT_INL_H
