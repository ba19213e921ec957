// mxfp4_dot_tile for AVX2: pmaddubsw multiplies unsigned by signed, so weights are looked up as
// value + 12 (0..24) and 12 * (sum of activations) is subtracted from the block's sum (a pair is at
// most 576, a block 9216: int16 holds). Must never run without AVX2 and FMA: mxfp4_dot_tile()
// checks. Proved by tests/kernels/mxfp4_dot_test.cc.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "quern/kernels/cpu/mxfp4_dot.h"

namespace quern::kernels {
namespace {

#define QUERN_AVX2 __attribute__((target("avx2,fma"), always_inline)) inline

struct Group {
  __m256i weights[8];  // 32 values + 12 of each block, even elements then odd
  __m256 scales;
};

// 2^(byte - 127); byte 0 is the subnormal 2^-127, 255 is NaN.
QUERN_AVX2 __m256 decode_scales(const std::uint8_t* bytes) {
  const __m256i value =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  __m256i bits = _mm256_slli_epi32(value, 23);
  const __m256i zero = _mm256_cmpeq_epi32(value, _mm256_setzero_si256());
  const __m256i nan = _mm256_cmpeq_epi32(value, _mm256_set1_epi32(255));
  bits = _mm256_or_si256(
      bits, _mm256_and_si256(_mm256_or_si256(zero, nan), _mm256_set1_epi32(0x00400000)));
  return _mm256_castsi256_ps(bits);
}

QUERN_AVX2 void decode_group(const std::uint8_t* packed, const std::uint8_t* scales, Group& group) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m256i low = _mm256_set1_epi8(15);
  for (int b = 0; b < 8; ++b) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + b * 16));
    const __m256i nibbles =
        _mm256_inserti128_si256(_mm256_castsi128_si256(bytes), _mm_srli_epi16(bytes, 4), 1);
    group.weights[b] = _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, low));
  }
  group.scales = decode_scales(scales);
}

QUERN_AVX2 __m256i pairs(const Group& group, const std::int8_t* codes, int b) {
  return _mm256_maddubs_epi16(group.weights[b],
                              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + b * 32)));
}

// acc + the sums of 8 blocks, block b in lane b.
QUERN_AVX2 __m256 add_group(const Group& group, const QuantizedRow& x, std::int64_t g, __m256 acc) {
  const std::int8_t* codes = x.codes + g * 256;
  const __m256i h01 = _mm256_hadd_epi16(pairs(group, codes, 0), pairs(group, codes, 1));
  const __m256i h23 = _mm256_hadd_epi16(pairs(group, codes, 2), pairs(group, codes, 3));
  const __m256i h03 = _mm256_hadd_epi16(h01, h23);
  const __m256i h45 = _mm256_hadd_epi16(pairs(group, codes, 4), pairs(group, codes, 5));
  const __m256i h67 = _mm256_hadd_epi16(pairs(group, codes, 6), pairs(group, codes, 7));
  const __m256i h = _mm256_hadd_epi16(h03, _mm256_hadd_epi16(h45, h67));
  __m128i sums = _mm_add_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  sums = _mm_sub_epi16(sums, _mm_loadu_si128(reinterpret_cast<const __m128i*>(x.offsets + g * 8)));
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums)),
                                      _mm256_loadu_ps(x.scales + g * 8));
  return _mm256_fmadd_ps(scaled, group.scales, acc);
}

QUERN_AVX2 float reduce(__m256 acc) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// The row's last group, zero-padded (scale byte 127, codes 0: the activations there are 0 too).
struct PaddedGroup {
  std::uint8_t packed[128];
  std::uint8_t scales[8];
};

QUERN_AVX2 void pad_group(const std::uint8_t* packed, const std::uint8_t* scales,
                          std::int64_t blocks, PaddedGroup& out) {
  std::memset(out.packed, 0, sizeof(out.packed));
  std::memset(out.scales, 127, sizeof(out.scales));
  std::memcpy(out.packed, packed, static_cast<std::size_t>(blocks) * 16);
  std::memcpy(out.scales, scales, static_cast<std::size_t>(blocks));
}

// One row and Tokens tokens: the row is decoded once for all of them.
template <int Tokens>
__attribute__((target("avx2,fma"))) void dot_row(const std::uint8_t* packed,
                                                 const std::uint8_t* scales, std::int64_t blocks,
                                                 const QuantizedRow* const* x, float* out,
                                                 std::int64_t out_stride) {
  __m256 acc[Tokens];
  for (__m256& sum : acc) sum = _mm256_setzero_ps();
  const std::int64_t full = blocks / 8;
  Group group;
  for (std::int64_t g = 0; g < full; ++g) {
    decode_group(packed + g * 128, scales + g * 8, group);
    for (int t = 0; t < Tokens; ++t) acc[t] = add_group(group, *x[t], g, acc[t]);
  }
  if (blocks % 8 != 0) {
    PaddedGroup padded;
    pad_group(packed + full * 128, scales + full * 8, blocks % 8, padded);
    decode_group(padded.packed, padded.scales, group);
    for (int t = 0; t < Tokens; ++t) acc[t] = add_group(group, *x[t], full, acc[t]);
  }
  for (int t = 0; t < Tokens; ++t) out[t * out_stride] = reduce(acc[t]) * x[t]->post_scale;
}

}  // namespace

void mxfp4_dot_tile_avx2(const std::uint8_t* packed, const std::uint8_t* scales, std::int64_t rows,
                         std::int64_t n, const QuantizedRow* const* x, std::int64_t tokens,
                         float* out, std::int64_t out_stride) {
  const std::int64_t blocks = n / 32;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* row = packed + r * n / 2;
    const std::uint8_t* row_scales = scales + r * blocks;
    std::int64_t t = 0;
    for (; t + 4 <= tokens; t += 4)
      dot_row<4>(row, row_scales, blocks, x + t, out + t * out_stride + r, out_stride);
    for (; t < tokens; ++t)
      dot_row<1>(row, row_scales, blocks, x + t, out + t * out_stride + r, out_stride);
  }
}

}  // namespace quern::kernels
#endif  // __x86_64__
