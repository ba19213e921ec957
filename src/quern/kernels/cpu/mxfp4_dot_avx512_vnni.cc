// The MXFP4 products for AVX-512 with VNNI: as mxfp4_dot_256-inl.h with twice the width, a row as
// it lies in steps of 16 blocks, panels of 32 rows.
// Must never run without AVX-512 F, BW, DQ, VL and VNNI: mxfp4_kernels() checks.
// Proved by tests/kernels/dot_test.cc.
#if defined(__x86_64__)
// GCC 12's AVX-512 header leaves operands undefined on purpose and then warns of it (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "quern/kernels/cpu/mxfp4_dot.h"

namespace quern::kernels {
namespace {

#define QUERN_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")))
#define QUERN_INLINE QUERN_TARGET __attribute__((always_inline)) inline

constexpr std::int64_t kPanelRows = 32;
constexpr std::int64_t kRowTokens = 2;    // up to here rows are taken as they lie
constexpr std::int64_t kPanelTokens = 6;  // of one pass over a panel

// 2^(byte - 127) in int32 lanes; byte 0 is the subnormal 2^-127, 255 is NaN.
QUERN_INLINE __m512 scale_values(__m512i bytes) {
  const __m512i bits =
      _mm512_max_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(255));
  return _mm512_castsi512_ps(_mm512_mask_set1_epi32(bits, nan, 0x7FC00000));
}

// 12 + twice the value of each low nibble.
QUERN_INLINE __m512i look_up(__m512i nibbles) {
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  return _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles, _mm512_set1_epi8(15)));
}

constexpr __mmask16 first(std::int64_t count) {
  return static_cast<__mmask16>((1U << std::clamp<std::int64_t>(count, 0, 16)) - 1U);
}

// Per 128-bit lane the sums of a, b, c, d.
QUERN_INLINE __m512i reduce(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

// Adds `count` (at most 16) blocks of a row from block 8 * g on to the sums of each token.
template <int Tokens>
QUERN_INLINE void add_blocks(const std::uint8_t* packed, const std::uint8_t* scales,
                             std::int64_t count, const QuantizedRow* const* x, std::int64_t g,
                             __m256* acc) {
  __m512i even[4], odd[4];
  for (int e = 0; e < 4; ++e) {
    const __m512i bytes =
        count == 16 ? _mm512_loadu_si512(packed + e * 64)
                    : _mm512_maskz_loadu_epi32(first(count * 4 - e * 16), packed + e * 64);
    even[e] = look_up(bytes);
    odd[e] = look_up(_mm512_srli_epi16(bytes, 4));
  }
  const __m512 values =
      scale_values(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), scales)));
  const std::int64_t groups = count > 8 ? 2 : 1;  // what is not there counts as 0
  for (int t = 0; t < Tokens; ++t) {
    __m512i sum[4] = {};
    for (int e = 0; e < 4; ++e) {
      if (e / 2 >= groups) break;
      const std::int8_t* codes = x[t]->codes + (g + e / 2) * 256 + e % 2 * 64;
      sum[e] = _mm512_dpbusd_epi32(sum[e], even[e], _mm512_loadu_si512(codes));
      sum[e] = _mm512_dpbusd_epi32(sum[e], odd[e], _mm512_loadu_si512(codes + 128));
    }
    // Lane quarter q, element e is block 4e + q.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i blocks = _mm512_permutexvar_epi32(order, reduce(sum[0], sum[1], sum[2], sum[3]));
    const __mmask16 there = first(groups * 8);
    const __m512i exact =
        _mm512_add_epi32(blocks, _mm512_maskz_loadu_epi32(there, x[t]->corrections + g * 8));
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(exact),
                                        _mm512_maskz_loadu_ps(there, x[t]->scales + g * 8));
    acc[t] =
        _mm256_fmadd_ps(_mm512_castps512_ps256(scaled), _mm512_castps512_ps256(values), acc[t]);
    if (groups == 2) {
      acc[t] = _mm256_fmadd_ps(_mm512_extractf32x8_ps(scaled, 1), _mm512_extractf32x8_ps(values, 1),
                               acc[t]);
    }
  }
}

// ((l0+l4)+(l2+l6)) + ((l1+l5)+(l3+l7))
QUERN_INLINE float sum_lanes(__m256 acc) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// One row as it lies, Tokens tokens.
template <int Tokens>
QUERN_TARGET void dot_row(const std::uint8_t* packed, const std::uint8_t* scales,
                          std::int64_t blocks, const QuantizedRow* const* x, float* out,
                          std::int64_t out_stride) {
  __m256 acc[Tokens];
  for (__m256& sum : acc) sum = _mm256_setzero_ps();
  std::int64_t b = 0;
  for (; b + 16 <= blocks; b += 16)
    add_blocks<Tokens>(packed + b * 16, scales + b, 16, x, b / 8, acc);
  if (b < blocks) add_blocks<Tokens>(packed + b * 16, scales + b, blocks - b, x, b / 8, acc);
  for (int t = 0; t < Tokens; ++t) out[t * out_stride] = sum_lanes(acc[t]) * x[t]->post_scale;
}

// Weights of kPanelRows rows: slot s of a block is (block mod 8) * groups + block / 8, so that the
// blocks of one lane of the order follow one another.
struct Panel {
  std::uint8_t*
      codes;      // [slots][8][kPanelRows][4] value + 12: four quads of even elements, four odd
  float* scales;  // [slots][kPanelRows]
  std::int64_t groups;

  std::int64_t slot(std::int64_t block) const { return block % 8 * groups + block / 8; }
};
constexpr std::int64_t kSlotBytes = kPanelRows * 32;

// Rows of 16 dwords to columns: out[j] = dword j of each row.
QUERN_INLINE void transpose16(const __m512i* row, __m512i* column) {
  __m512i a[16], b[16];
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int c = 0; c < 4; ++c) {  // lane q of b[4 i + c] is dword 4 q + c of rows 4 i .. 4 i + 3
    const __m512i even_low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xDD);
    const __m512i even_high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xDD);
    column[c] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    column[4 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    column[8 + c] = _mm512_shuffle_i32x4(even_low, even_high, 0xDD);
    column[12 + c] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD);
  }
}

// Sixteen rows of the panel; rows beyond `rows` repeat the last one.
QUERN_INLINE void decode_codes(const std::uint8_t* packed, std::int64_t rows, std::int64_t blocks,
                               const Panel& panel, std::int64_t first_row) {
  for (std::int64_t b = 0; b < blocks; b += 4) {
    const __mmask16 there = first((blocks - b) * 4);
    __m512i row[16], column[16];
    for (int r = 0; r < 16; ++r) {
      row[r] = _mm512_maskz_loadu_epi32(
          there, packed + (std::min(first_row + r, rows - 1) * blocks + b) * 16);
    }
    transpose16(row, column);
    for (int q = 0; q < 4 && b + q < blocks; ++q) {
      std::uint8_t* out = panel.codes + panel.slot(b + q) * kSlotBytes + first_row * 4;
      for (int j = 0; j < 4; ++j) {
        const __m512i bytes = column[4 * q + j];
        _mm512_store_si512(out + j * kPanelRows * 4, look_up(bytes));
        _mm512_store_si512(out + (4 + j) * kPanelRows * 4, look_up(_mm512_srli_epi16(bytes, 4)));
      }
    }
  }
}

QUERN_INLINE void decode_scales(const std::uint8_t* scales, std::int64_t rows, std::int64_t blocks,
                                const Panel& panel, std::int64_t first_row) {
  int offset[16];
  for (int r = 0; r < 16; ++r)
    offset[r] = static_cast<int>(std::min(first_row + r, rows - 1) * blocks);
  std::int64_t b = 0;
  for (; b + 4 <= blocks; b += 4) {  // four bytes a row at once
    __m512i bytes = _mm512_i32gather_epi32(_mm512_loadu_si512(offset), scales + b, 1);
    for (int i = 0; i < 4; ++i) {
      float* out = panel.scales + panel.slot(b + i) * kPanelRows + first_row;
      _mm512_store_ps(out, scale_values(_mm512_and_si512(bytes, _mm512_set1_epi32(255))));
      bytes = _mm512_srli_epi32(bytes, 8);
    }
  }
  for (; b < blocks; ++b) {
    int bytes[16];
    for (int r = 0; r < 16; ++r) bytes[r] = scales[offset[r] + b];
    _mm512_store_ps(panel.scales + panel.slot(b) * kPanelRows + first_row,
                    scale_values(_mm512_loadu_si512(bytes)));
  }
}

// One lane of the order: blocks lane, lane + 8, ... of the panel's rows and Tokens tokens.
template <int Tokens>
QUERN_INLINE void panel_lane(const Panel& panel, std::int64_t blocks, std::int64_t lane,
                             const QuantizedRow* const* x, __m512 (*acc)[2]) {
  const std::uint8_t* codes = panel.codes + lane * panel.groups * kSlotBytes;
  const float* scales = panel.scales + lane * panel.groups * kPanelRows;
  std::int64_t at = lane * 16;
  for (int t = 0; t < Tokens; ++t) acc[t][0] = acc[t][1] = _mm512_setzero_ps();
  for (std::int64_t b = lane; b < blocks; b += 8) {
    __m512i sum[Tokens][2];
    for (int t = 0; t < Tokens; ++t)
      sum[t][0] = sum[t][1] = _mm512_set1_epi32(x[t]->corrections[b]);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const __m512i w0 = _mm512_load_si512(codes + j * kPanelRows * 4);
      const __m512i w1 = _mm512_load_si512(codes + j * kPanelRows * 4 + 64);
      for (int t = 0; t < Tokens; ++t) {
        int quad;
        std::memcpy(&quad, x[t]->codes + at + j / 4 * 128 + j % 4 * 4, sizeof(quad));
        const __m512i v = _mm512_set1_epi32(quad);
        sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, v);
        sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, v);
      }
    }
    for (int t = 0; t < Tokens; ++t) {
      const __m512 scale = _mm512_set1_ps(x[t]->scales[b]);
      for (int h = 0; h < 2; ++h) {
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[t][h]), scale);
        acc[t][h] = _mm512_fmadd_ps(scaled, _mm512_load_ps(scales + h * 16), acc[t][h]);
      }
    }
    at += 256;
    codes += kSlotBytes;
    scales += kPanelRows;
  }
}

template <int Tokens>
QUERN_TARGET void dot_panel(const Panel& panel, std::int64_t blocks, std::int64_t rows,
                            const QuantizedRow* const* x, float* out, std::int64_t out_stride) {
  __m512 lanes[8][Tokens][2];
  for (std::int64_t lane = 0; lane < 8; ++lane)
    panel_lane<Tokens>(panel, blocks, lane, x, lanes[lane]);
  for (int t = 0; t < Tokens; ++t) {
    for (int h = 0; h < 2; ++h) {
      const __m512 even = _mm512_add_ps(_mm512_add_ps(lanes[0][t][h], lanes[4][t][h]),
                                        _mm512_add_ps(lanes[2][t][h], lanes[6][t][h]));
      const __m512 odd = _mm512_add_ps(_mm512_add_ps(lanes[1][t][h], lanes[5][t][h]),
                                       _mm512_add_ps(lanes[3][t][h], lanes[7][t][h]));
      const __m512 sum = _mm512_mul_ps(_mm512_add_ps(even, odd), _mm512_set1_ps(x[t]->post_scale));
      _mm512_mask_storeu_ps(out + t * out_stride + h * 16, first(rows - h * 16), sum);
    }
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

// The last tokens of a list, fewer than kPanelTokens.
template <int Tokens>
QUERN_TARGET void dot_rest(const Panel& panel, std::int64_t blocks, std::int64_t rows,
                           std::int64_t tokens, const QuantizedRow* const* x, float* out,
                           std::int64_t out_stride) {
  if (tokens == Tokens) return dot_panel<Tokens>(panel, blocks, rows, x, out, out_stride);
  if constexpr (Tokens > 1) dot_rest<Tokens - 1>(panel, blocks, rows, tokens, x, out, out_stride);
}

QUERN_TARGET void dot_panels(const Mxfp4Product& p, std::byte* scratch) {
  const std::int64_t blocks = p.n / 32;
  const std::int64_t groups = mx_groups(p.n);
  const Panel panel{reinterpret_cast<std::uint8_t*>(scratch),
                    reinterpret_cast<float*>(scratch + groups * 8 * kSlotBytes), groups};
  for (std::int64_t r = 0; r < p.rows; r += kPanelRows) {
    const std::int64_t rows = p.rows - r;
    for (std::int64_t half = 0; half < kPanelRows; half += 16) {
      decode_codes(p.packed + r * p.n / 2, rows, blocks, panel, half);
      decode_scales(p.scales + r * blocks, rows, blocks, panel, half);
    }
    std::int64_t t = 0;
    for (; t + kPanelTokens <= p.tokens; t += kPanelTokens) {
      dot_panel<kPanelTokens>(panel, blocks, rows, p.x + t, p.out + t * p.out_stride + r,
                              p.out_stride);
    }
    if (t < p.tokens) {
      dot_rest<kPanelTokens - 1>(panel, blocks, rows, p.tokens - t, p.x + t,
                                 p.out + t * p.out_stride + r, p.out_stride);
    }
  }
}

}  // namespace

QUERN_TARGET void mxfp4_dot_avx512_vnni(const Mxfp4Product& p, std::byte* scratch) {
  if (p.tokens <= kRowTokens) {
    dot_rows_as_they_lie(p);
  } else {
    dot_panels(p, scratch);
  }
}

// Twelve independent sums: more than the latency of the instruction.
QUERN_TARGET std::int64_t mxfp4_peak_avx512_vnni(std::int64_t rounds) {
  __m512i sum[12] = {};
  __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(-1);
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) {
      asm volatile("" : "+v"(a), "+v"(b));
      s = _mm512_dpbusd_epi32(s, a, b);
    }
  }
  for (auto& s : sum) asm volatile("" : : "v"(s));
  return rounds * 12 * 64;
}

}  // namespace quern::kernels
#endif  // __x86_64__
