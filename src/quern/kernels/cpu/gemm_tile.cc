// See gemm_tile.h.
#include "quern/kernels/cpu/gemm_tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/kernels/cpu/gemm_tile.cc"
#include <hwy/foreach_target.h>
// Behind foreach_target.h, as Highway asks.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#ifndef QUERN_GEMM_TILE_GELU_TABLE
#define QUERN_GEMM_TILE_GELU_TABLE
namespace quern::kernels {

// The exact value for each of the 65,536 BF16 numbers, rounded to BF16.
inline const float* gelu_table() {
  static const std::vector<float> table = [] {
    std::vector<float> values(65536);
    for (std::uint32_t bits = 0; bits < values.size(); ++bits) {
      const auto x = static_cast<double>(bf16_to_float({static_cast<std::uint16_t>(bits)}));
      values[bits] =
          round_to_bf16(static_cast<float>(x / 2 * std::erfc(-x * std::numbers::sqrt2 / 2)));
    }
    return values;
  }();
  return table.data();
}

}  // namespace quern::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace quern::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Sums of a tile stay in registers: rows x 2 vectors, and room for 2 of the panel and 1 of x.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM_A64
constexpr int kRows = 14;
#else
constexpr int kRows = 6;
#endif

HWY_INLINE std::int64_t vector_size() { return static_cast<std::int64_t>(hn::Lanes(D())); }

std::int64_t tile_rows() { return kRows; }
std::int64_t tile_cols() { return 2 * vector_size(); }

template <int kVectors>
HWY_INLINE void multiply(const float* HWY_RESTRICT x, const float* HWY_RESTRICT panel,
                         std::int64_t depth, float* HWY_RESTRICT sums, std::int64_t sums_stride,
                         bool add) {
  const D d;
  const std::int64_t lanes = vector_size();
  V acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = add ? hn::LoadU(d, sums + r * sums_stride + v * lanes) : hn::Zero(d);
    }
  }
  for (std::int64_t i = 0; i < depth; ++i) {
    V w[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) w[v] = hn::LoadU(d, panel + (i * kVectors + v) * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V value = hn::Set(d, x[r * kTileStride + i]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::MulAdd(w[v], value, acc[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) hn::StoreU(acc[r][v], d, sums + r * sums_stride + v * lanes);
  }
}

void multiply_tile_impl(const float* x, const float* panel, std::int64_t depth, std::int64_t cols,
                        float* sums, std::int64_t sums_stride, bool add) {
  if (cols == tile_cols()) {
    multiply<2>(x, panel, depth, sums, sums_stride, add);
  } else {
    multiply<1>(x, panel, depth, sums, sums_stride, add);
  }
}

HWY_INLINE float scalar(float value) { return value; }
HWY_INLINE float scalar(BF16 value) { return bf16_to_float(value); }

template <typename Element>
HWY_INLINE void pack_elements(const Element* weight, std::int64_t stride, std::int64_t rows,
                              std::int64_t begin, std::int64_t end, float* panel) {
  const std::int64_t cols = tile_cols();
  for (std::int64_t r = 0; r < cols; ++r) {
    for (std::int64_t i = begin; i < end; ++i) {
      panel[i * cols + r] = r < rows ? scalar(weight[r * stride + i]) : 0.0F;
    }
  }
}

// Two neighbouring elements of each of a vector's rows at a time.
std::int64_t pack_pairs(const BF16* weight, std::int64_t stride, std::int64_t depth, float* panel) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const std::int64_t lanes = vector_size();
  const auto offsets = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<std::int32_t>(2 * stride)));
  std::int64_t i = 0;
  for (; i + 2 <= depth; i += 2) {
    for (std::int64_t v = 0; v < 2; ++v) {
      const auto* from = reinterpret_cast<const std::uint32_t*>(weight + v * lanes * stride + i);
      const auto pair = hn::GatherOffset(du, from, offsets);
      float* to = panel + i * 2 * lanes + v * lanes;
      hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(pair)), d, to);
      hn::StoreU(hn::BitCast(d, hn::And(pair, hn::Set(du, 0xFFFF0000U))), d, to + 2 * lanes);
    }
  }
  return i;
}

void pack_bf16(const BF16* weight, std::int64_t stride, std::int64_t rows, std::int64_t depth,
               float* panel) {
  // A pair is loaded as one word.
  const bool aligned = reinterpret_cast<std::uintptr_t>(weight) % 4 == 0 && stride % 2 == 0;
  const bool fits = stride * tile_cols() * 2 <= std::int64_t{1} << 31;
  std::int64_t done = 0;
  if (rows >= tile_cols() && aligned && fits) done = pack_pairs(weight, stride, depth, panel);
  pack_elements(weight, stride, rows, done, depth, panel);
}

void pack_floats(const float* weight, std::int64_t stride, std::int64_t rows, std::int64_t depth,
                 float* panel) {
  pack_elements(weight, stride, rows, 0, depth, panel);
}

// BF16 rounding of finite values, to nearest even, kept in float lanes.
HWY_INLINE V round_bf16(D d, V value) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU)));
  return hn::BitCast(d, hn::And(rounded, hn::Set(du, 0xFFFF0000U)));
}

template <Finish kFinish>
HWY_INLINE void finish(const float* sums, const float* bias, std::int64_t n, float* out) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::RebindToUnsigned<D> du;
  const float* gelu = gelu_table();
  const std::int64_t lanes = vector_size();
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    V value = round_bf16(d, hn::Add(hn::LoadU(d, sums + i), hn::LoadU(d, bias + i)));
    if constexpr (kFinish == Finish::kGelu) {
      const auto index = hn::ShiftRight<16>(hn::BitCast(du, value));
      value = hn::GatherIndex(d, gelu, hn::BitCast(di, index));
    }
    if constexpr (kFinish == Finish::kAdd)
      value = round_bf16(d, hn::Add(hn::LoadU(d, out + i), value));
    hn::StoreU(value, d, out + i);
  }
  for (; i < n; ++i) {
    const float value = round_to_bf16(sums[i] + bias[i]);
    if constexpr (kFinish == Finish::kStore) out[i] = value;
    if constexpr (kFinish == Finish::kGelu) out[i] = gelu[float_to_bf16(value).bits];
    if constexpr (kFinish == Finish::kAdd) out[i] = round_to_bf16(out[i] + value);
  }
}

void finish_row_impl(const float* sums, const float* bias, std::int64_t n, Finish how, float* out) {
  switch (how) {
    case Finish::kStore:
      return finish<Finish::kStore>(sums, bias, n, out);
    case Finish::kGelu:
      return finish<Finish::kGelu>(sums, bias, n, out);
    case Finish::kAdd:
      return finish<Finish::kAdd>(sums, bias, n, out);
  }
}

float stream_softmax_impl(float* values, std::int64_t n, float scale, float& highest, float& sum) {
  const D d;
  const std::int64_t lanes = vector_size();
  const std::int64_t padded = (n + lanes - 1) / lanes * lanes;
  for (std::int64_t i = n; i < padded; ++i) values[i] = -HUGE_VALF;
  V most = hn::LoadU(d, values);
  for (std::int64_t i = lanes; i < padded; i += lanes)
    most = hn::Max(most, hn::LoadU(d, values + i));
  const float peak = std::max(highest, hn::GetLane(hn::MaxOfLanes(d, most)) * scale);
  const float rescale = std::exp(highest - peak);  // 0 at the first block
  const V factor = hn::Set(d, scale);
  const V base = hn::Set(d, peak);
  V added = hn::Zero(d);
  for (std::int64_t i = 0; i < padded; i += lanes) {
    const V p = hn::Exp(d, hn::Sub(hn::Mul(hn::LoadU(d, values + i), factor), base));
    added = hn::Add(added, p);
    hn::StoreU(round_bf16(d, p), d, values + i);
  }
  highest = peak;
  sum = sum * rescale + hn::GetLane(hn::SumOfLanes(d, added));
  return rescale;
}

void scale_row_impl(float* values, std::int64_t n, float factor) {
  const D d;
  const std::int64_t lanes = vector_size();
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(hn::LoadU(d, values + i), hn::Set(d, factor)), d, values + i);
  for (; i < n; ++i) values[i] *= factor;
}

void layer_norm_impl(const float* x, const float* weight, const float* bias, float eps,
                     std::int64_t n, float* out) {
  const D d;
  const std::int64_t lanes = vector_size();
  const float count = static_cast<float>(n);
  V sums = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) sums = hn::Add(sums, hn::LoadU(d, x + i));
  float mean = hn::GetLane(hn::SumOfLanes(d, sums));
  for (std::int64_t j = i; j < n; ++j) mean += x[j];
  mean /= count;
  V squares = hn::Zero(d);
  for (i = 0; i + lanes <= n; i += lanes) {
    const V centered = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, mean));
    squares = hn::MulAdd(centered, centered, squares);
  }
  float variance = hn::GetLane(hn::SumOfLanes(d, squares));
  for (std::int64_t j = i; j < n; ++j) variance += (x[j] - mean) * (x[j] - mean);
  const float scale = 1.0F / std::sqrt(variance / count + eps);
  for (i = 0; i + lanes <= n; i += lanes) {
    const V normed = hn::Mul(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, mean)), hn::Set(d, scale));
    const V result = hn::MulAdd(normed, hn::LoadU(d, weight + i), hn::LoadU(d, bias + i));
    hn::StoreU(round_bf16(d, result), d, out + i);
  }
  for (; i < n; ++i) out[i] = round_to_bf16(std::fma((x[i] - mean) * scale, weight[i], bias[i]));
}

}  // namespace quern::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern::kernels {

HWY_EXPORT(tile_rows);
HWY_EXPORT(tile_cols);
HWY_EXPORT(multiply_tile_impl);
HWY_EXPORT(pack_bf16);
HWY_EXPORT(pack_floats);
HWY_EXPORT(finish_row_impl);
HWY_EXPORT(stream_softmax_impl);
HWY_EXPORT(scale_row_impl);
HWY_EXPORT(layer_norm_impl);

namespace {

void multiply_vectors(const float* x, const float* panel, std::int64_t depth, std::int64_t cols,
                      float* sums, std::int64_t sums_stride, bool add) {
  HWY_DYNAMIC_DISPATCH(multiply_tile_impl)(x, panel, depth, cols, sums, sums_stride, add);
}

void pack_bf16_panel(const BF16* weight, std::int64_t stride, std::int64_t rows, std::int64_t depth,
                     float* panel) {
  HWY_DYNAMIC_DISPATCH(pack_bf16)(weight, stride, rows, depth, panel);
}

void pack_float_panel(const float* weight, std::int64_t stride, std::int64_t rows,
                      std::int64_t depth, float* panel) {
  HWY_DYNAMIC_DISPATCH(pack_floats)(weight, stride, rows, depth, panel);
}

// Floats stay what they are.
void copy_row(const float* from, std::int64_t cols, float* to) {
  if (from != to) std::memcpy(to, from, static_cast<std::size_t>(cols) * sizeof(float));
}

void copy_values(const float* values, std::int64_t stride, std::int64_t count, std::int64_t filled,
                 std::int64_t cols, float* panel) {
  for (std::int64_t j = 0; j < count; ++j, panel += cols) {
    std::copy_n(values + j * stride, filled, panel);
    std::fill_n(panel + filled, cols - filled, 0.0F);
  }
}

}  // namespace

TileKernel vector_tile_kernel() {
  const TileShape shape{HWY_DYNAMIC_DISPATCH(tile_rows)(), HWY_DYNAMIC_DISPATCH(tile_cols)()};
  return {.shape = shape,
          .part_rows = shape.pad_rows(370),
          .pack_row = copy_row,
          .pack_bf16 = pack_bf16_panel,
          .pack_floats = pack_float_panel,
          .pack_values = copy_values,
          .multiply = multiply_vectors};
}

void finish_row(const float* sums, const float* bias, std::int64_t n, Finish how, float* out) {
  HWY_DYNAMIC_DISPATCH(finish_row_impl)(sums, bias, n, how, out);
}

float stream_softmax_row(float* values, std::int64_t n, float scale, float& highest, float& sum) {
  return HWY_DYNAMIC_DISPATCH(stream_softmax_impl)(values, n, scale, highest, sum);
}

void scale_row(float* values, std::int64_t n, float factor) {
  HWY_DYNAMIC_DISPATCH(scale_row_impl)(values, n, factor);
}

void layer_norm_row(const float* x, const float* weight, const float* bias, float eps,
                    std::int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(layer_norm_impl)(x, weight, bias, eps, n, out);
}

}  // namespace quern::kernels
#endif  // HWY_ONCE
