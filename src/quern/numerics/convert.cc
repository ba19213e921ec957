// Bulk conversions between binary32 and the 16-bit formats, with Google Highway.
// Must never differ from the scalar functions of bf16.h and fp16.h by a bit.
// Proved by tests/numerics/convert_test.cc.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/numerics/convert.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quern/base/error.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/convert-inl.h"
#include "quern/numerics/fp16.h"

HWY_BEFORE_NAMESPACE();
namespace quern {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D32 = hn::ScalableTag<std::uint32_t>;
using V32 = hn::Vec<D32>;

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
  return widen_all(in, count, out, [](V32 v) HWY_ATTR { return widen_bf16_lanes(D32(), v); });
}
std::size_t widen_fp16_span(const std::uint16_t* in, std::size_t count, std::uint32_t* out) {
  return widen_all(in, count, out, [](V32 v) HWY_ATTR { return widen_fp16_lanes(D32(), v); });
}
std::size_t narrow_bf16_span(const std::uint32_t* in, std::size_t count, std::uint16_t* out) {
  return narrow_all(in, count, out, [](V32 v) HWY_ATTR { return narrow_bf16_lanes(D32(), v); });
}
std::size_t narrow_fp16_span(const std::uint32_t* in, std::size_t count, std::uint16_t* out) {
  return narrow_all(in, count, out, [](V32 v) HWY_ATTR { return narrow_fp16_lanes(D32(), v); });
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
