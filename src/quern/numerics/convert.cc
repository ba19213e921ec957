// Bulk conversions between binary32 and the 16-bit formats, with Google Highway.
// Must never differ from the scalar functions of bf16.h and fp16.h by a bit (integer operations
// only, because hardware conversions differ in NaN payloads and flush modes). Proved by
// tests/numerics/convert_test.cc.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/numerics/convert.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quern/base/error.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"

HWY_BEFORE_NAMESPACE();
namespace quern {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D32 = hn::ScalableTag<std::uint32_t>;
using V32 = hn::Vec<D32>;

HWY_INLINE V32 set(std::uint32_t bits) { return hn::Set(D32(), bits); }

HWY_INLINE V32 widen_bf16(V32 bits) { return hn::ShiftLeft<16>(bits); }

HWY_INLINE V32 narrow_bf16(V32 bits) {
  const auto upper = hn::ShiftRight<16>(bits);
  const auto rounded = hn::Add(bits, hn::Add(set(0x7FFF), hn::And(upper, set(1))));
  const auto is_nan = hn::Gt(hn::And(bits, set(0x7FFF'FFFF)), set(0x7F80'0000));
  return hn::IfThenElse(is_nan, hn::Or(upper, set(0x40)), hn::ShiftRight<16>(rounded));
}

HWY_INLINE V32 widen_fp16(V32 bits) {
  const hn::RebindToFloat<D32> df;
  const auto magnitude = hn::And(bits, set(0x7FFF));
  const auto shifted = hn::ShiftLeft<13>(magnitude);
  const auto finite = hn::BitCast(D32(), hn::Mul(hn::BitCast(df, shifted), hn::Set(df, 0x1p112f)));
  const auto is_nan = hn::Gt(magnitude, set(0x7C00));
  const auto special = hn::Or(shifted, hn::IfThenElse(is_nan, set(0x7FC0'0000), set(0x7F80'0000)));
  const auto value = hn::IfThenElse(hn::Gt(magnitude, set(0x7BFF)), special, finite);
  return hn::Or(value, hn::ShiftLeft<16>(hn::And(bits, set(0x8000))));
}

HWY_INLINE V32 narrow_fp16(V32 all) {
  const hn::RebindToFloat<D32> df;
  const auto bits = hn::And(all, set(0x7FFF'FFFF));
  const auto shifted = hn::ShiftRight<13>(bits);
  const auto normal = hn::ShiftRight<13>(
      hn::Add(hn::Sub(bits, set((112u << 23) - 0xFFFu)), hn::And(shifted, set(1))));
  const auto subnormal = hn::Sub(
      hn::BitCast(D32(), hn::Add(hn::BitCast(df, bits), hn::Set(df, 0.5f))), set(0x3F00'0000));
  const auto nan = hn::Or(set(0x7E00), hn::And(shifted, set(0x3FF)));
  auto result = hn::IfThenElse(hn::Lt(bits, set(0x3880'0000)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(bits, set(0x477F'EFFF)), set(0x7C00), result);
  result = hn::IfThenElse(hn::Gt(bits, set(0x7F80'0000)), nan, result);
  return hn::Or(result, hn::And(hn::ShiftRight<16>(all), set(0x8000)));
}

// Returns how many elements were done: whole vectors; the caller does the rest with the scalar
// function.
template <typename Fn>
HWY_INLINE std::size_t widen_all(const std::uint16_t* HWY_RESTRICT in, std::size_t count,
                                 std::uint32_t* HWY_RESTRICT out, const Fn& fn) {
  const D32 d;
  const hn::Rebind<std::uint16_t, D32> d16;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::StoreU(fn(hn::PromoteTo(d, hn::LoadU(d16, in + i))), d, out + i);
  }
  return i;
}

template <typename Fn>
HWY_INLINE std::size_t narrow_all(const std::uint32_t* HWY_RESTRICT in, std::size_t count,
                                  std::uint16_t* HWY_RESTRICT out, const Fn& fn) {
  const D32 d;
  const hn::Rebind<std::uint16_t, D32> d16;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::StoreU(hn::TruncateTo(d16, fn(hn::LoadU(d, in + i))), d16, out + i);
  }
  return i;
}

std::size_t widen_bf16_span(const std::uint16_t* in, std::size_t count, std::uint32_t* out) {
  return widen_all(in, count, out, [](V32 v) HWY_ATTR { return widen_bf16(v); });
}
std::size_t widen_fp16_span(const std::uint16_t* in, std::size_t count, std::uint32_t* out) {
  return widen_all(in, count, out, [](V32 v) HWY_ATTR { return widen_fp16(v); });
}
std::size_t narrow_bf16_span(const std::uint32_t* in, std::size_t count, std::uint16_t* out) {
  return narrow_all(in, count, out, [](V32 v) HWY_ATTR { return narrow_bf16(v); });
}
std::size_t narrow_fp16_span(const std::uint32_t* in, std::size_t count, std::uint16_t* out) {
  return narrow_all(in, count, out, [](V32 v) HWY_ATTR { return narrow_fp16(v); });
}

}  // namespace HWY_NAMESPACE
}  // namespace quern
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern {
namespace {

HWY_EXPORT(widen_bf16_span);
HWY_EXPORT(widen_fp16_span);
HWY_EXPORT(narrow_bf16_span);
HWY_EXPORT(narrow_fp16_span);

template <typename In, typename Out>
void check_sizes(std::span<In> in, std::span<Out> out) {
  QUERN_CHECK(in.size() == out.size(), "{} in, {} out", in.size(), out.size());
}

}  // namespace

void bf16_to_float(std::span<const BF16> in, std::span<float> out) {
  check_sizes(in, out);
  std::size_t i = HWY_DYNAMIC_DISPATCH(widen_bf16_span)(
      reinterpret_cast<const std::uint16_t*>(in.data()), in.size(),
      reinterpret_cast<std::uint32_t*>(out.data()));
  for (; i < in.size(); ++i) out[i] = bf16_to_float(in[i]);
}

void fp16_to_float(std::span<const FP16> in, std::span<float> out) {
  check_sizes(in, out);
  std::size_t i = HWY_DYNAMIC_DISPATCH(widen_fp16_span)(
      reinterpret_cast<const std::uint16_t*>(in.data()), in.size(),
      reinterpret_cast<std::uint32_t*>(out.data()));
  for (; i < in.size(); ++i) out[i] = fp16_to_float(in[i]);
}

void float_to_bf16(std::span<const float> in, std::span<BF16> out) {
  check_sizes(in, out);
  std::size_t i = HWY_DYNAMIC_DISPATCH(narrow_bf16_span)(
      reinterpret_cast<const std::uint32_t*>(in.data()), in.size(),
      reinterpret_cast<std::uint16_t*>(out.data()));
  for (; i < in.size(); ++i) out[i] = float_to_bf16(in[i]);
}

void float_to_fp16(std::span<const float> in, std::span<FP16> out) {
  check_sizes(in, out);
  std::size_t i = HWY_DYNAMIC_DISPATCH(narrow_fp16_span)(
      reinterpret_cast<const std::uint32_t*>(in.data()), in.size(),
      reinterpret_cast<std::uint16_t*>(out.data()));
  for (; i < in.size(); ++i) out[i] = float_to_fp16(in[i]);
}

}  // namespace quern
#endif  // HWY_ONCE
