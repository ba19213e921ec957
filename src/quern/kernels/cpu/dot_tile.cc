// See dot_tile.h.
#include "quern/kernels/cpu/dot_tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/kernels/cpu/dot_tile.cc"
#include <hwy/foreach_target.h>
// Behind foreach_target.h, as Highway asks.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quern::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE V load(D d, const float* from) { return hn::LoadU(d, from); }
HWY_INLINE V load(D d, const BF16* from) {
  const hn::Rebind<hwy::bfloat16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::bfloat16_t*>(from)));
}
HWY_INLINE float scalar(float value) { return value; }
HWY_INLINE float scalar(BF16 value) { return bf16_to_float(value); }

// Rows x Tokens outputs in registers; each has one accumulator vector.
template <int Rows, int Tokens, typename Element>
HWY_INLINE void micro_tile(const Element* weight, std::int64_t weight_stride, const float* const* x,
                           std::int64_t n, float* out, std::int64_t out_stride) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V acc[Rows][Tokens];
  for (auto& row : acc) {
    for (V& sum : row) sum = hn::Zero(d);
  }
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    V w[Rows];
    for (int r = 0; r < Rows; ++r) w[r] = load(d, weight + r * weight_stride + i);
    for (int t = 0; t < Tokens; ++t) {
      const V value = hn::LoadU(d, x[t] + i);
      for (int r = 0; r < Rows; ++r) acc[r][t] = hn::MulAdd(w[r], value, acc[r][t]);
    }
  }
  for (int t = 0; t < Tokens; ++t) {
    for (int r = 0; r < Rows; ++r) {
      float sum = hn::GetLane(hn::SumOfLanes(d, acc[r][t]));
      for (std::int64_t j = i; j < n; ++j) sum += scalar(weight[r * weight_stride + j]) * x[t][j];
      out[t * out_stride + r] = sum;
    }
  }
}

template <int Tokens, typename Element>
HWY_INLINE void token_tile(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                           const float* const* x, std::int64_t n, float* out,
                           std::int64_t out_stride) {
  constexpr int kRows = Tokens == 1 ? 8 : 4;
  std::int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    micro_tile<kRows, Tokens>(weight + r * weight_stride, weight_stride, x, n, out + r, out_stride);
  }
  for (; r < rows; ++r)
    micro_tile<1, Tokens>(weight + r * weight_stride, weight_stride, x, n, out + r, out_stride);
}

template <typename Element>
HWY_INLINE void all_tiles(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                          const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
                          std::int64_t out_stride) {
  std::int64_t t = 0;
  for (; t + 3 <= tokens; t += 3) {
    token_tile<3>(weight, weight_stride, rows, x + t, n, out + t * out_stride, out_stride);
  }
  if (tokens - t == 2)
    token_tile<2>(weight, weight_stride, rows, x + t, n, out + t * out_stride, out_stride);
  if (tokens - t == 1)
    token_tile<1>(weight, weight_stride, rows, x + t, n, out + t * out_stride, out_stride);
}

void dot_tile_bf16(const BF16* weight, std::int64_t weight_stride, std::int64_t rows,
                   const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
                   std::int64_t out_stride) {
  all_tiles(weight, weight_stride, rows, x, tokens, n, out, out_stride);
}

void dot_tile_f32(const float* weight, std::int64_t weight_stride, std::int64_t rows,
                  const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
                  std::int64_t out_stride) {
  all_tiles(weight, weight_stride, rows, x, tokens, n, out, out_stride);
}

// BF16 rounding of finite values, to nearest even, kept in float lanes.
HWY_INLINE V round_bf16(D d, V value) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU)));
  return hn::BitCast(d, hn::And(rounded, hn::Set(du, 0xFFFF0000U)));
}

float softmax_row_impl(float* values, std::int64_t n, float scale, float highest) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V sum = hn::Zero(d);
  for (std::int64_t i = 0; i < n; i += lanes) {
    HWY_ALIGN float block[hn::MaxLanes(D())] = {};
    const std::int64_t count = n - i < lanes ? n - i : lanes;
    for (std::int64_t j = 0; j < count; ++j) block[j] = values[i + j];
    V p = hn::Exp(d, hn::Sub(hn::Mul(hn::Load(d, block), hn::Set(d, scale)), hn::Set(d, highest)));
    p = hn::IfThenElse(hn::FirstN(d, static_cast<std::size_t>(count)), p, hn::Zero(d));
    sum = hn::Add(sum, p);
    hn::Store(round_bf16(d, p), d, block);
    for (std::int64_t j = 0; j < count; ++j) values[i + j] = block[j];
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <int Heads>
HWY_INLINE void accumulate_tile(const float* p, std::int64_t p_stride, std::int64_t keys,
                                const BF16* v, std::int64_t dim, const float* rescale, float* acc) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    V sum[Heads];
    for (int h = 0; h < Heads; ++h)
      sum[h] = hn::Mul(hn::LoadU(d, acc + h * dim + i), hn::Set(d, rescale[h]));
    for (std::int64_t j = 0; j < keys; ++j) {
      const V value = load(d, v + j * dim + i);
      for (int h = 0; h < Heads; ++h)
        sum[h] = hn::MulAdd(hn::Set(d, p[h * p_stride + j]), value, sum[h]);
    }
    for (int h = 0; h < Heads; ++h) hn::StoreU(sum[h], d, acc + h * dim + i);
  }
  for (; i < dim; ++i) {
    for (int h = 0; h < Heads; ++h) {
      float sum = acc[h * dim + i] * rescale[h];
      for (std::int64_t j = 0; j < keys; ++j)
        sum += p[h * p_stride + j] * bf16_to_float(v[j * dim + i]);
      acc[h * dim + i] = sum;
    }
  }
}

void accumulate_values_impl(const float* p, std::int64_t p_stride, std::int64_t heads,
                            std::int64_t keys, const BF16* v, std::int64_t dim,
                            const float* rescale, float* acc) {
  std::int64_t h = 0;
  for (; h + 8 <= heads; h += 8) {
    accumulate_tile<8>(p + h * p_stride, p_stride, keys, v, dim, rescale + h, acc + h * dim);
  }
  for (; h < heads; ++h) {
    accumulate_tile<1>(p + h * p_stride, p_stride, keys, v, dim, rescale + h, acc + h * dim);
  }
}

}  // namespace quern::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern::kernels {

HWY_EXPORT(dot_tile_bf16);
HWY_EXPORT(dot_tile_f32);
HWY_EXPORT(softmax_row_impl);
HWY_EXPORT(accumulate_values_impl);

void dot_tile(const BF16* weight, std::int64_t weight_stride, std::int64_t rows,
              const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
              std::int64_t out_stride) {
  HWY_DYNAMIC_DISPATCH(dot_tile_bf16)(weight, weight_stride, rows, x, tokens, n, out, out_stride);
}

void dot_tile(const float* weight, std::int64_t weight_stride, std::int64_t rows,
              const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
              std::int64_t out_stride) {
  HWY_DYNAMIC_DISPATCH(dot_tile_f32)(weight, weight_stride, rows, x, tokens, n, out, out_stride);
}

float softmax_row(float* values, std::int64_t n, float scale, float highest) {
  return HWY_DYNAMIC_DISPATCH(softmax_row_impl)(values, n, scale, highest);
}

void accumulate_values(const float* p, std::int64_t p_stride, std::int64_t heads, std::int64_t keys,
                       const BF16* v, std::int64_t dim, const float* rescale, float* acc) {
  HWY_DYNAMIC_DISPATCH(accumulate_values_impl)(p, p_stride, heads, keys, v, dim, rescale, acc);
}

}  // namespace quern::kernels
#endif  // HWY_ONCE
