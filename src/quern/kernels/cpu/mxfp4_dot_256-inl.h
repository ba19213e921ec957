// mxfp4_dot for 256-bit vectors, included once by each instruction set's file, which defines
// QUERN_TARGET (function attributes) and Ops (the multiply-adds) first. Weights are looked up as
// value + 12 (0..24, unsigned) and corrections[b] = -12 * (sum of activations) is added to a
// block's sum. Must never be included elsewhere. Proved by tests/kernels/dot_test.cc.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "quern/kernels/cpu/mxfp4_dot.h"

namespace quern::kernels {
namespace {

#define QUERN_INLINE QUERN_TARGET __attribute__((always_inline)) inline

constexpr std::int64_t kPanelRows = 16;
constexpr std::int64_t kRowTokens = 2;    // up to here rows are taken as they lie
constexpr std::int64_t kPanelTokens = 3;  // of one pass over a panel

QUERN_INLINE __m256i load256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// 2^(byte - 127) of 8 bytes in int32 lanes; byte 0 is the subnormal 2^-127, 255 is NaN.
QUERN_INLINE __m256 scale_values(__m256i bytes) {
  const __m256i bits =
      _mm256_max_epi32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(0x00400000));
  const __m256i nan = _mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(255));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, nan));
}

// 12 + twice the value of each low nibble.
QUERN_INLINE __m256i look_up(__m256i nibbles) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  return _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15)));
}

// acc + the scaled sums of a group of 8 blocks, block b in lane b.
QUERN_INLINE __m256 add_group(const __m256i* even, const __m256i* odd, __m256 scales,
                              const QuantizedRow& x, std::int64_t g, __m256 acc) {
  const std::int8_t* codes = x.codes + g * 256;
  typename Ops::Sum sum[4];
  for (int e = 0; e < 4; ++e) {
    sum[e] = Ops::add(Ops::zero(), even[e], load256(codes + e * 32));
    sum[e] = Ops::add(sum[e], odd[e], load256(codes + 128 + e * 32));
  }
  // Lane half h, element e is block 2e + h.
  const __m256i blocks = _mm256_permutevar8x32_epi32(Ops::reduce(sum[0], sum[1], sum[2], sum[3]),
                                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  const __m256i exact = _mm256_add_epi32(blocks, load256(x.corrections + g * 8));
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(exact), _mm256_loadu_ps(x.scales + g * 8));
  return _mm256_fmadd_ps(scaled, scales, acc);
}

// ((l0+l4)+(l2+l6)) + ((l1+l5)+(l3+l7))
QUERN_INLINE float sum_lanes(__m256 acc) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <int Tokens>
QUERN_INLINE void add_row_group(const std::uint8_t* packed, const std::uint8_t* scales,
                                const QuantizedRow* const* x, std::int64_t g, __m256* acc) {
  __m256i even[4], odd[4];
  for (int e = 0; e < 4; ++e) {
    const __m256i bytes = load256(packed + e * 32);
    even[e] = look_up(bytes);
    odd[e] = look_up(_mm256_srli_epi16(bytes, 4));
  }
  const __m256 values =
      scale_values(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales))));
  for (int t = 0; t < Tokens; ++t) acc[t] = add_group(even, odd, values, *x[t], g, acc[t]);
}

// One row as it lies, Tokens tokens.
template <int Tokens>
QUERN_TARGET void dot_row(const std::uint8_t* packed, const std::uint8_t* scales,
                          std::int64_t blocks, const QuantizedRow* const* x, float* out,
                          std::int64_t out_stride) {
  __m256 acc[Tokens];
  for (__m256& sum : acc) sum = _mm256_setzero_ps();
  const std::int64_t full = blocks / 8;
  for (std::int64_t g = 0; g < full; ++g)
    add_row_group<Tokens>(packed + g * 128, scales + g * 8, x, g, acc);
  if (const auto rest = static_cast<std::size_t>(blocks % 8); rest != 0) {
    // Zero-padded: code 0 and scale 1; the activations there are 0 too.
    std::uint8_t padded[128] = {};
    std::uint8_t padded_scales[8];
    std::memset(padded_scales, 127, sizeof(padded_scales));
    std::memcpy(padded, packed + full * 128, rest * 16);
    std::memcpy(padded_scales, scales + full * 8, rest);
    add_row_group<Tokens>(padded, padded_scales, x, full, acc);
  }
  for (int t = 0; t < Tokens; ++t) out[t * out_stride] = sum_lanes(acc[t]) * x[t]->post_scale;
}

// Weights of kPanelRows rows: slot s of a block is (block mod 8) * groups + block / 8, so that the
// blocks of one lane follow one another.
struct Panel {
  std::uint8_t*
      codes;      // [slots][8][kPanelRows][4] value + 12: four quads of even elements, four odd
  float* scales;  // [slots][kPanelRows]
  std::int64_t groups;

  std::int64_t slot(std::int64_t block) const { return block % 8 * groups + block / 8; }
};
constexpr std::int64_t kSlotBytes = kPanelRows * 32;

// Rows of 8 dwords to columns: out[j] = dword j of each row.
QUERN_INLINE void transpose8(const __m256i* row, __m256i* column) {
  __m256i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    column[c] = _mm256_permute2x128_si256(b[c], b[4 + c], 0x20);
    column[4 + c] = _mm256_permute2x128_si256(b[c], b[4 + c], 0x31);
  }
}

// Eight rows of the panel; rows beyond `rows` repeat the last one.
QUERN_INLINE void decode_codes(const std::uint8_t* packed, std::int64_t rows, std::int64_t blocks,
                               const Panel& panel, std::int64_t first) {
  for (std::int64_t b = 0; b < blocks; b += 2) {
    const bool both = b + 1 < blocks;
    const __m256i mask = _mm256_setr_epi32(-1, -1, -1, -1, both ? -1 : 0, both ? -1 : 0,
                                           both ? -1 : 0, both ? -1 : 0);
    __m256i row[8], column[8];
    for (int r = 0; r < 8; ++r) {
      const std::uint8_t* from = packed + (std::min(first + r, rows - 1) * blocks + b) * 16;
      row[r] =
          both ? load256(from) : _mm256_maskload_epi32(reinterpret_cast<const int*>(from), mask);
    }
    transpose8(row, column);
    for (int h = 0; h < (both ? 2 : 1); ++h) {
      std::uint8_t* out = panel.codes + panel.slot(b + h) * kSlotBytes + first * 4;
      for (int j = 0; j < 4; ++j) {
        const __m256i bytes = column[4 * h + j];
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + j * kPanelRows * 4), look_up(bytes));
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + (4 + j) * kPanelRows * 4),
                           look_up(_mm256_srli_epi16(bytes, 4)));
      }
    }
  }
}

QUERN_INLINE void decode_scales(const std::uint8_t* scales, std::int64_t rows, std::int64_t blocks,
                                const Panel& panel, std::int64_t first) {
  int offset[8];
  for (int r = 0; r < 8; ++r) offset[r] = static_cast<int>(std::min(first + r, rows - 1) * blocks);
  std::int64_t b = 0;
  for (; b + 4 <= blocks; b += 4) {  // four bytes a row at once
    __m256i bytes =
        _mm256_i32gather_epi32(reinterpret_cast<const int*>(scales + b), load256(offset), 1);
    for (int i = 0; i < 4; ++i) {
      float* out = panel.scales + panel.slot(b + i) * kPanelRows + first;
      _mm256_store_ps(out, scale_values(_mm256_and_si256(bytes, _mm256_set1_epi32(255))));
      bytes = _mm256_srli_epi32(bytes, 8);
    }
  }
  for (; b < blocks; ++b) {
    int bytes[8];
    for (int r = 0; r < 8; ++r) bytes[r] = scales[offset[r] + b];
    _mm256_store_ps(panel.scales + panel.slot(b) * kPanelRows + first,
                    scale_values(load256(bytes)));
  }
}

// One lane of the order: blocks lane, lane + 8, ... of the panel's rows and Tokens tokens.
template <int Tokens>
QUERN_INLINE void panel_lane(const Panel& panel, std::int64_t blocks, std::int64_t lane,
                             const QuantizedRow* const* x, __m256 (*acc)[2]) {
  const std::uint8_t* codes = panel.codes + lane * panel.groups * kSlotBytes;
  const float* scales = panel.scales + lane * panel.groups * kPanelRows;
  const std::int8_t* activations[Tokens];
  for (int t = 0; t < Tokens; ++t) {
    activations[t] = x[t]->codes + lane * 16;
    acc[t][0] = acc[t][1] = _mm256_setzero_ps();
  }
  for (std::int64_t b = lane; b < blocks; b += 8) {
    typename Ops::Sum sum[Tokens][2];
    for (auto& pair : sum) pair[0] = pair[1] = Ops::zero();
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const __m256i w0 = load256(codes + j * kPanelRows * 4);
      const __m256i w1 = load256(codes + j * kPanelRows * 4 + 32);
      for (int t = 0; t < Tokens; ++t) {
        int quad;
        std::memcpy(&quad, activations[t] + j / 4 * 128 + j % 4 * 4, sizeof(quad));
        const __m256i v = _mm256_set1_epi32(quad);
        sum[t][0] = Ops::add(sum[t][0], w0, v);
        sum[t][1] = Ops::add(sum[t][1], w1, v);
      }
    }
    for (int t = 0; t < Tokens; ++t) {
      const __m256i correction = _mm256_set1_epi32(x[t]->corrections[b]);
      const __m256 scale = _mm256_set1_ps(x[t]->scales[b]);
      for (int h = 0; h < 2; ++h) {
        const __m256i exact = _mm256_add_epi32(Ops::widen(sum[t][h]), correction);
        const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(exact), scale);
        acc[t][h] = _mm256_fmadd_ps(scaled, _mm256_load_ps(scales + h * 8), acc[t][h]);
      }
      activations[t] += 256;
    }
    codes += kSlotBytes;
    scales += kPanelRows;
  }
}

template <int Tokens>
QUERN_TARGET void dot_panel(const Panel& panel, std::int64_t blocks, std::int64_t rows,
                            const QuantizedRow* const* x, float* out, std::int64_t out_stride) {
  __m256 lanes[8][Tokens][2];
  for (std::int64_t lane = 0; lane < 8; ++lane)
    panel_lane<Tokens>(panel, blocks, lane, x, lanes[lane]);
  for (int t = 0; t < Tokens; ++t) {
    alignas(32) float values[kPanelRows];
    for (int h = 0; h < 2; ++h) {
      const __m256 even = _mm256_add_ps(_mm256_add_ps(lanes[0][t][h], lanes[4][t][h]),
                                        _mm256_add_ps(lanes[2][t][h], lanes[6][t][h]));
      const __m256 odd = _mm256_add_ps(_mm256_add_ps(lanes[1][t][h], lanes[5][t][h]),
                                       _mm256_add_ps(lanes[3][t][h], lanes[7][t][h]));
      const __m256 sum = _mm256_mul_ps(_mm256_add_ps(even, odd), _mm256_set1_ps(x[t]->post_scale));
      _mm256_store_ps(values + h * 8, sum);
    }
    std::memcpy(out + t * out_stride, values,
                static_cast<std::size_t>(std::min(rows, kPanelRows)) * sizeof(float));
  }
}

QUERN_TARGET void dot_rows_as_they_lie(const Mxfp4Product& p) {
  const std::int64_t blocks = p.n / 32;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const std::uint8_t* row = p.packed + r * p.n / 2;
    const std::uint8_t* scales = p.scales + r * blocks;
    if (p.tokens == 2) {
      dot_row<2>(row, scales, blocks, p.x, p.out + r, p.out_stride);
    } else {
      dot_row<1>(row, scales, blocks, p.x, p.out + r, p.out_stride);
    }
  }
}

QUERN_TARGET void dot_panels(const Mxfp4Product& p, std::byte* scratch) {
  const std::int64_t blocks = p.n / 32;
  const std::int64_t groups = mx_groups(p.n);
  const Panel panel{reinterpret_cast<std::uint8_t*>(scratch),
                    reinterpret_cast<float*>(scratch + groups * 8 * kSlotBytes), groups};
  for (std::int64_t r = 0; r < p.rows; r += kPanelRows) {
    const std::int64_t rows = p.rows - r;
    for (std::int64_t first = 0; first < kPanelRows; first += 8) {
      decode_codes(p.packed + r * p.n / 2, rows, blocks, panel, first);
      decode_scales(p.scales + r * blocks, rows, blocks, panel, first);
    }
    std::int64_t t = 0;
    for (; t + kPanelTokens <= p.tokens; t += kPanelTokens) {
      dot_panel<kPanelTokens>(panel, blocks, rows, p.x + t, p.out + t * p.out_stride + r,
                              p.out_stride);
    }
    for (; t < p.tokens; ++t)
      dot_panel<1>(panel, blocks, rows, p.x + t, p.out + t * p.out_stride + r, p.out_stride);
  }
}

QUERN_TARGET void dot(const Mxfp4Product& p, std::byte* scratch) {
  if (p.tokens <= kRowTokens) {
    dot_rows_as_they_lie(p);
  } else {
    dot_panels(p, scratch);
  }
}

// Twelve independent sums: more than the latency of the instruction.
QUERN_TARGET std::int64_t peak(std::int64_t rounds) {
  typename Ops::Sum sum[12];
  for (auto& s : sum) s = Ops::zero();
  __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(-1);
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) {
      asm volatile("" : "+x"(a), "+x"(b));
      s = Ops::add(s, a, b);
    }
  }
  for (auto& s : sum) asm volatile("" : : "x"(s));
  return rounds * 12 * 32;
}

}  // namespace
}  // namespace quern::kernels
