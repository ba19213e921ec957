// See dot_tile.h.
#include "quern/kernels/cpu/dot_tile.h"

#include <algorithm>
#include <limits>

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

// The registers of the instruction set decide the tile: 4 x 6 with 32, 4 x 3 with 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kTokens = 6;
constexpr int kDimVectors = 2;
#else
constexpr int kTokens = 3;
constexpr int kDimVectors = 1;
#endif
constexpr int kRows = 4;

#if HWY_TARGET != HWY_SCALAR
// Per 128-bit block the sums over the block of a, b, c, e.
HWY_INLINE V sum_blocks(V a, V b, V c, V e) {
  const D d;
  const hn::Repartition<double, D> d64;
  const V ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const V ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  return hn::Add(
      hn::BitCast(d, hn::InterleaveLower(d64, hn::BitCast(d64, ab), hn::BitCast(d64, ce))),
      hn::BitCast(d, hn::InterleaveUpper(d64, hn::BitCast(d64, ab), hn::BitCast(d64, ce))));
}
#endif

// Sums over the lanes of four vectors to out[0 .. count): one tree, the same for each of the four.
HWY_INLINE void store_sums(V a, V b, V c, V e, float* out, int count) {
#if HWY_TARGET == HWY_SCALAR
  const float sums[4] = {hn::GetLane(a), hn::GetLane(b), hn::GetLane(c), hn::GetLane(e)};
#else
  const D d;
  const V blocks = sum_blocks(a, b, c, e);
  HWY_ALIGN float sums[4];
#if HWY_TARGET <= HWY_AVX3
  const hn::Half<D> half;
  const hn::Half<decltype(half)> quarter;
  const auto two = hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks));
  hn::Store(hn::Add(hn::LowerHalf(quarter, two), hn::UpperHalf(quarter, two)), quarter, sums);
#elif HWY_TARGET <= HWY_AVX2
  const hn::Half<D> half;
  hn::Store(hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks)), half, sums);
#else
  hn::Store(blocks, d, sums);
#endif
#endif
  for (int i = 0; i < count; ++i) out[i] = sums[i];
}

// Rows x Tokens outputs: lanes, then the elements behind the last full vector.
template <int Rows, int Tokens, typename Element>
HWY_INLINE void register_tile(const Element* weight, std::int64_t weight_stride,
                              const float* const* x, std::int64_t n, float* out,
                              std::int64_t out_stride) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t full = n / lanes * lanes;
  V sum[Tokens][Rows];
  for (int t = 0; t < Tokens; ++t) {
    for (int r = 0; r < Rows; ++r) sum[t][r] = hn::Zero(d);
  }
  for (std::int64_t i = 0; i < full; i += lanes) {
    V w[Rows];
    for (int r = 0; r < Rows; ++r) w[r] = load(d, weight + r * weight_stride + i);
    for (int t = 0; t < Tokens; ++t) {
      const V value = hn::LoadU(d, x[t] + i);
      for (int r = 0; r < Rows; ++r) sum[t][r] = hn::MulAdd(w[r], value, sum[t][r]);
    }
  }
  for (int t = 0; t < Tokens; ++t) {
    float* row = out + t * out_stride;
    if constexpr (Rows == kRows) {
      store_sums(sum[t][0], sum[t][1], sum[t][2], sum[t][3], row, kRows);
    } else {
      const V none = hn::Zero(d);
      for (int r = 0; r < Rows; ++r) store_sums(sum[t][r], none, none, none, row + r, 1);
    }
    for (int r = 0; r < Rows; ++r) {
      for (std::int64_t j = full; j < n; ++j)
        row[r] += scalar(weight[r * weight_stride + j]) * x[t][j];
    }
  }
}

// All rows for Tokens tokens.
template <int Tokens, typename Element>
HWY_INLINE void token_tile(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                           const float* const* x, std::int64_t n, float* out,
                           std::int64_t out_stride) {
  std::int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    register_tile<kRows, Tokens>(weight + r * weight_stride, weight_stride, x, n, out + r,
                                 out_stride);
  for (; r < rows; ++r)
    register_tile<1, Tokens>(weight + r * weight_stride, weight_stride, x, n, out + r, out_stride);
}

// `tokens` of them, at most Most.
template <int Most, typename Element>
HWY_INLINE void some_tokens(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                            const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
                            std::int64_t out_stride) {
  if (tokens == Most) return token_tile<Most>(weight, weight_stride, rows, x, n, out, out_stride);
  if constexpr (Most > 1)
    some_tokens<Most - 1>(weight, weight_stride, rows, x, tokens, n, out, out_stride);
}

template <typename Element>
HWY_INLINE void all_tiles(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                          const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
                          std::int64_t out_stride) {
  for (std::int64_t t = 0; t < tokens;) {
    // The last two tiles alike: 4 and 4 are faster than 6 and 2.
    const std::int64_t left = tokens - t;
    const std::int64_t count =
        left >= 2 * kTokens ? kTokens : (left > kTokens ? (left + 1) / 2 : left);
    some_tokens<kTokens>(weight, weight_stride, rows, x + t, count, n, out + t * out_stride,
                         out_stride);
    t += count;
  }
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

#if HWY_TARGET == HWY_SCALAR
std::int64_t heads_of_vector() { return 1; }

HWY_INLINE void head_maxima(const IndexBlock& a, const BF16* const* keys, std::int64_t h0,
                            float* top) {
  for (int k = 0; k < kIndexKeys; ++k) {
    float sum[4] = {};
    for (std::int64_t i = 0; i < index_pad(a.dim); ++i) {
      sum[i % 8 / 2] += a.queries[index_query_place(a.heads, h0, i)] * bf16_to_float(keys[k][i]);
    }
    top[k % 4] = std::max(top[k % 4], (sum[0] + sum[2]) + (sum[1] + sum[3]));
  }
}
#else
std::int64_t heads_of_vector() { return static_cast<std::int64_t>(hn::Lanes(D())) / 4; }

// top = the largest scores so far of the heads of one vector from h0 on, key k in lane k mod 4 of a
// head's block.
HWY_INLINE void head_maxima(const IndexBlock& a, const BF16* const* keys, std::int64_t h0,
                            float* top) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const std::int64_t stride = index_pad_heads(a.heads) * 4;
  const float* queries = a.queries + h0 * 4;
  const auto upper = hn::Set(du, 0xFFFF0000U);
  V sum[kIndexKeys];
  for (V& s : sum) s = hn::Zero(d);
  for (std::int64_t i = 0; i < a.dim; i += 8) {
    const V even = hn::LoadU(d, queries), odd = hn::LoadU(d, queries + stride);
    queries += 2 * stride;
    for (int k = 0; k < kIndexKeys; ++k) {
      // Eight elements in every block; of a pair the even one lies in the lower half of a word.
      const auto pairs = hn::LoadDup128(du, reinterpret_cast<const std::uint32_t*>(keys[k] + i));
      sum[k] = hn::MulAdd(even, hn::BitCast(d, hn::ShiftLeft<16>(pairs)), sum[k]);
      sum[k] = hn::MulAdd(odd, hn::BitCast(d, hn::And(pairs, upper)), sum[k]);
    }
  }
  const V largest = hn::Max(sum_blocks(sum[0], sum[1], sum[2], sum[3]),
                            sum_blocks(sum[4], sum[5], sum[6], sum[7]));
  hn::StoreU(hn::Max(hn::LoadU(d, top), largest), d, top);
}
#endif

void score_index_block_impl(const IndexBlock& a) {
  const std::int64_t dim = index_pad(a.dim), heads = index_pad_heads(a.heads);
  float* top = a.scratch;  // [heads][4]
  auto* padded = reinterpret_cast<BF16*>(top + heads * 4);
  for (std::int64_t i = 0; i < heads * 4; ++i) top[i] = -std::numeric_limits<float>::infinity();
  for (std::int64_t first = 0; first < a.num_keys; first += kIndexKeys) {
    const BF16* keys[kIndexKeys];
    for (std::int64_t k = 0; k < kIndexKeys; ++k) {
      // The first key stands in for those behind the last.
      keys[k] = a.keys + (first + k < a.num_keys ? first + k : 0) * a.dim;
      if (dim == a.dim) continue;
      for (std::int64_t i = 0; i < dim; ++i) padded[k * dim + i] = i < a.dim ? keys[k][i] : BF16{};
      keys[k] = padded + k * dim;
    }
    for (std::int64_t h = 0; h < heads; h += heads_of_vector())
      head_maxima(a, keys, h, top + h * 4);
  }
  for (std::int64_t h = 0; h < a.heads; ++h)
    a.best[h * a.best_stride] = *std::max_element(top + h * 4, top + h * 4 + 4);
}

// BF16 rounding of finite values, to nearest even, kept in float lanes.
HWY_INLINE V round_bf16(D d, V value) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU)));
  return hn::BitCast(d, hn::And(rounded, hn::Set(du, 0xFFFF0000U)));
}

// Scores of up to kKeyTile keys (as floats) with all heads: scores[key][heads], each a sum over
// dim, ascending.
constexpr int kKeyTile = 8;

HWY_INLINE void score_keys(const AttentionBlock& a, const float* keys, std::int64_t count,
                           float* scores) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const V scale = hn::Set(d, a.scale);
  for (std::int64_t h = 0; h < a.heads; h += lanes) {
    V sum[kKeyTile];
    for (V& s : sum) s = hn::Zero(d);
    for (std::int64_t i = 0; i < a.dim; ++i) {
      const V q = hn::LoadU(d, a.queries + i * a.heads + h);
      for (int k = 0; k < kKeyTile; ++k)
        sum[k] = hn::MulAdd(q, hn::Set(d, keys[k * a.dim + i]), sum[k]);
    }
    for (int k = 0; k < kKeyTile; ++k) {
      if (k < count) hn::StoreU(hn::Mul(sum[k], scale), d, scores + k * a.heads + h);
    }
  }
}

// scores become BF16 probabilities relative to the new highest score of each head.
HWY_INLINE void streamed_softmax(const AttentionBlock& a, float* scores, float* rescale) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t h = 0; h < a.heads; h += lanes) {
    const V before = hn::LoadU(d, a.highest + h);
    V peak = before;
    for (std::int64_t k = 0; k < a.keys; ++k)
      peak = hn::Max(peak, hn::LoadU(d, scores + k * a.heads + h));
    const V factor = hn::Exp(d, hn::Sub(before, peak));  // 0 at the first block
    V sum = hn::Mul(hn::LoadU(d, a.sum + h), factor);
    for (std::int64_t k = 0; k < a.keys; ++k) {
      float* slot = scores + k * a.heads + h;
      const V p = hn::Exp(d, hn::Sub(hn::LoadU(d, slot), peak));
      sum = hn::Add(sum, p);
      hn::StoreU(round_bf16(d, p), d, slot);
    }
    hn::StoreU(peak, d, a.highest + h);
    hn::StoreU(sum, d, a.sum + h);
    hn::StoreU(factor, d, rescale + h);
  }
}

// acc[head][i] = acc[head][i] * rescale[head] + sum over keys, ascending, of p[key][head] *
// v[key][i], for eight heads and Vectors vectors of i.
template <int Vectors>
HWY_INLINE void add_values(const AttentionBlock& a, const float* p, const float* rescale,
                           std::int64_t h0, std::int64_t i) {
  constexpr int kHeads = 8;
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V sum[kHeads][Vectors];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < Vectors; ++v) {
      sum[h][v] = hn::Mul(hn::LoadU(d, a.acc + (h0 + h) * a.dim + i + v * lanes),
                          hn::Set(d, rescale[h0 + h]));
    }
  }
  for (std::int64_t k = 0; k < a.keys; ++k) {
    V value[Vectors];
    for (int v = 0; v < Vectors; ++v) value[v] = load(d, a.v + k * a.dim + i + v * lanes);
    for (int h = 0; h < kHeads; ++h) {
      const V weight = hn::Set(d, p[k * a.heads + h0 + h]);
      for (int v = 0; v < Vectors; ++v) sum[h][v] = hn::MulAdd(weight, value[v], sum[h][v]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < Vectors; ++v)
      hn::StoreU(sum[h][v], d, a.acc + (h0 + h) * a.dim + i + v * lanes);
  }
}

void attend_block_impl(const AttentionBlock& a) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  float* keys = a.scratch;  // [kKeyTile][dim]
  float* scores = keys + kKeyTile * a.dim;
  float* rescale = scores + a.keys * a.heads;
  for (std::int64_t k = 0; k < a.keys; k += kKeyTile) {
    const std::int64_t count = a.keys - k < kKeyTile ? a.keys - k : kKeyTile;
    const std::int64_t values = count * a.dim;
    const BF16* from = a.k + k * a.dim;
    std::int64_t i = 0;
    for (; i + lanes <= values; i += lanes) hn::StoreU(load(d, from + i), d, keys + i);
    for (; i < values; ++i) keys[i] = bf16_to_float(from[i]);
    for (; i < kKeyTile * a.dim; ++i) keys[i] = 0;
    score_keys(a, keys, count, scores + k * a.heads);
  }
  streamed_softmax(a, scores, rescale);
  for (std::int64_t h = 0; h < a.used_heads; h += 8) {
    std::int64_t i = 0;
    for (; i + kDimVectors * lanes <= a.dim; i += kDimVectors * lanes)
      add_values<kDimVectors>(a, scores, rescale, h, i);
    for (; i + lanes <= a.dim; i += lanes) add_values<1>(a, scores, rescale, h, i);
    for (; i < a.dim; ++i) {
      for (std::int64_t head = h; head < h + 8; ++head) {
        float sum = a.acc[head * a.dim + i] * rescale[head];
        for (std::int64_t k = 0; k < a.keys; ++k)
          sum += scores[k * a.heads + head] * bf16_to_float(a.v[k * a.dim + i]);
        a.acc[head * a.dim + i] = sum;
      }
    }
  }
}

}  // namespace quern::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern::kernels {

HWY_EXPORT(dot_tile_bf16);
HWY_EXPORT(dot_tile_f32);
HWY_EXPORT(score_index_block_impl);
HWY_EXPORT(attend_block_impl);

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

void score_index_block(const IndexBlock& block) {
  HWY_DYNAMIC_DISPATCH(score_index_block_impl)(block);
}

void attend_block(const AttentionBlock& block) { HWY_DYNAMIC_DISPATCH(attend_block_impl)(block); }

}  // namespace quern::kernels
#endif  // HWY_ONCE
