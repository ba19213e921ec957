// See swiglu.h.
#include "quern/kernels/cpu/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/kernels/cpu/swiglu.cc"
#include <hwy/foreach_target.h>
// Behind foreach_target.h, as Highway asks.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "quern/numerics/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quern::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> round_lanes(D d, hn::Vec<D> value) {
  const hn::RebindToUnsigned<D> du;
  const auto narrow = quern::HWY_NAMESPACE::narrow_bf16_lanes(du, hn::BitCast(du, value));
  return hn::BitCast(d, quern::HWY_NAMESPACE::widen_bf16_lanes(du, narrow));
}

// The comparisons keep a NaN: it is the second operand.
template <class D>
HWY_INLINE hn::Vec<D> swiglu_lanes(D d, hn::Vec<D> gate, hn::Vec<D> up, const SwigluSpec& spec) {
  const auto limit = hn::Set(d, spec.limit);
  const auto one = hn::Set(d, 1.0F);
  const auto g = hn::Min(limit, round_lanes(d, gate));
  const auto u = hn::Min(limit, hn::Max(hn::Neg(limit), round_lanes(d, up)));
  const auto power = hn::Exp(d, hn::Mul(hn::Set(d, -spec.alpha), g));
  const auto activated = hn::Div(g, hn::Add(one, power));
  return round_lanes(d, hn::Mul(activated, hn::Add(u, hn::Set(d, spec.beta))));
}

void swiglu_row_impl(const float* gate, const float* up, std::int64_t n, const SwigluSpec& spec,
                     float* out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(swiglu_lanes(d, hn::LoadU(d, gate + i), hn::LoadU(d, up + i), spec), d, out + i);
  if (i == n) return;
  HWY_ALIGN float rest[3][hn::MaxLanes(d)] = {};
  for (std::int64_t j = i; j < n; ++j) {
    rest[0][j - i] = gate[j];
    rest[1][j - i] = up[j];
  }
  hn::Store(swiglu_lanes(d, hn::Load(d, rest[0]), hn::Load(d, rest[1]), spec), d, rest[2]);
  for (std::int64_t j = i; j < n; ++j) out[j] = rest[2][j - i];
}

}  // namespace quern::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern::kernels {

HWY_EXPORT(swiglu_row_impl);

void swiglu_row(const float* gate, const float* up, std::int64_t n, const SwigluSpec& spec,
                float* out) {
  HWY_DYNAMIC_DISPATCH(swiglu_row_impl)(gate, up, n, spec, out);
}

}  // namespace quern::kernels
#endif  // HWY_ONCE
