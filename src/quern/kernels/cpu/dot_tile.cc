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

// The registers of the instruction set decide the tile: 4 x 6 with 32, 4 x 3 with 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kTokens = 6;
constexpr int kDimVectors = 2;
#else
constexpr int kTokens = 3;
constexpr int kDimVectors = 1;
#endif
constexpr int kRows = 4;

// Sums over the lanes of four vectors to out[0 .. count): one tree, the same for each of the four.
HWY_INLINE void store_sums(V a, V b, V c, V e, float* out, int count) {
#if HWY_TARGET == HWY_SCALAR
  const float sums[4] = {hn::GetLane(a), hn::GetLane(b), hn::GetLane(c), hn::GetLane(e)};
#else
  const D d;
  const hn::Repartition<double, D> d64;
  const V ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const V ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  // Each block of four lanes holds the block's sums of a, b, c, e.
  const V blocks =
      hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, hn::BitCast(d64, ab), hn::BitCast(d64, ce))),
              hn::BitCast(d, hn::InterleaveUpper(d64, hn::BitCast(d64, ab), hn::BitCast(d64, ce))));
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

// Elements [begin, end) of Rows x Tokens outputs, added to acc[token][row].
template <int Rows, int Tokens, typename Element>
HWY_INLINE void add_products(const Element* weight, std::int64_t weight_stride,
                             const float* const* x, std::int64_t begin, std::int64_t end,
                             V (*acc)[kRows]) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  V sum[Tokens][Rows];
  for (int t = 0; t < Tokens; ++t) {
    for (int r = 0; r < Rows; ++r) sum[t][r] = acc[t][r];
  }
  for (std::int64_t i = begin; i < end; i += lanes) {
    V w[Rows];
    for (int r = 0; r < Rows; ++r) w[r] = load(d, weight + r * weight_stride + i);
    for (int t = 0; t < Tokens; ++t) {
      const V value = hn::LoadU(d, x[t] + i);
      for (int r = 0; r < Rows; ++r) sum[t][r] = hn::MulAdd(w[r], value, sum[t][r]);
    }
  }
  for (int t = 0; t < Tokens; ++t) {
    for (int r = 0; r < Rows; ++r) acc[t][r] = sum[t][r];
  }
}

// Sums of the lanes, then the elements behind the last full vector.
template <int Rows, int Tokens, typename Element>
HWY_INLINE void finish(const Element* weight, std::int64_t weight_stride, const float* const* x,
                       std::int64_t full, std::int64_t n, V (*acc)[kRows], float* out,
                       std::int64_t out_stride) {
  for (int t = 0; t < Tokens; ++t) {
    float* row = out + t * out_stride;
    if constexpr (Rows == kRows) {
      store_sums(acc[t][0], acc[t][1], acc[t][2], acc[t][3], row, kRows);
    } else {
      const V none = hn::Zero(D());
      for (int r = 0; r < Rows; ++r) store_sums(acc[t][r], none, none, none, row + r, 1);
    }
    for (int r = 0; r < Rows; ++r) {
      for (std::int64_t j = full; j < n; ++j)
        row[r] += scalar(weight[r * weight_stride + j]) * x[t][j];
    }
  }
}

// All rows for Tokens tokens. Long rows are taken in pieces, so that the tokens' pieces stay in the
// L1 cache for all rows; the sums wait in memory meanwhile.
constexpr std::int64_t kTileRows = 32;
constexpr std::int64_t kPiece = 512;

template <int Tokens, typename Element>
HWY_INLINE void token_tile(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                           const float* const* x, std::int64_t n, float* out,
                           std::int64_t out_stride) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D()));
  const std::int64_t full = n / lanes * lanes;
  const std::int64_t piece = Tokens == 1 ? full : kPiece;  // one token: rows stream by once
  for (std::int64_t first = 0; first < rows; first += kTileRows) {
    const std::int64_t count = rows - first < kTileRows ? rows - first : kTileRows;
    const Element* tile = weight + first * weight_stride;
    V acc[kTileRows / kRows][Tokens][kRows];
    for (std::int64_t begin = 0; begin == 0 || begin < full; begin += piece) {
      const std::int64_t end = full - begin < piece ? full : begin + piece;
      for (std::int64_t r = 0; r < count; r += kRows) {
        V(*sums)[kRows] = acc[r / kRows];
        const Element* from = tile + r * weight_stride;
        if (begin == 0) {
          for (int t = 0; t < Tokens; ++t) {
            for (int i = 0; i < kRows; ++i) sums[t][i] = hn::Zero(D());
          }
        }
        float* to = out + first + r;
        if (r + kRows <= count) {
          add_products<kRows, Tokens>(from, weight_stride, x, begin, end, sums);
          if (end == full)
            finish<kRows, Tokens>(from, weight_stride, x, full, n, sums, to, out_stride);
          continue;
        }
        for (std::int64_t i = 0; i < count - r; ++i) {  // fewer than kRows: one by one
          V one[Tokens][kRows];
          for (int t = 0; t < Tokens; ++t) one[t][0] = sums[t][i];
          const Element* row = from + i * weight_stride;
          add_products<1, Tokens>(row, weight_stride, x, begin, end, one);
          for (int t = 0; t < Tokens; ++t) sums[t][i] = one[t][0];
          if (end == full)
            finish<1, Tokens>(row, weight_stride, x, full, n, one, to + i, out_stride);
        }
      }
      if (full == 0) break;
    }
  }
}

template <typename Element>
HWY_INLINE void all_tiles(const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                          const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
                          std::int64_t out_stride) {
  std::int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens)
    token_tile<kTokens>(weight, weight_stride, rows, x + t, n, out + t * out_stride, out_stride);
  if (kTokens > 3 && t + 4 <= tokens) {
    token_tile<4>(weight, weight_stride, rows, x + t, n, out + t * out_stride, out_stride);
    t += 4;
  }
  for (; t + 2 <= tokens; t += 2)
    token_tile<2>(weight, weight_stride, rows, x + t, n, out + t * out_stride, out_stride);
  if (t < tokens)
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

void attend_block(const AttentionBlock& block) { HWY_DYNAMIC_DISPATCH(attend_block_impl)(block); }

}  // namespace quern::kernels
#endif  // HWY_ONCE
