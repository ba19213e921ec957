// The MXFP4 products for AVX-VNNI: vpdpbusd multiplies unsigned by signed and adds four in int32.
// Must never run without AVX-VNNI and FMA: mxfp4_kernels() checks.
// Proved by tests/kernels/dot_test.cc.
#if defined(__x86_64__)
#include <immintrin.h>

#define QUERN_TARGET __attribute__((target("avx2,fma,avxvnni")))

namespace quern::kernels {
namespace {

struct Ops {
  using Sum = __m256i;  // 8 x int32
  QUERN_TARGET __attribute__((always_inline)) static Sum zero() { return _mm256_setzero_si256(); }
  QUERN_TARGET __attribute__((always_inline)) static Sum add(Sum sum, __m256i weights,
                                                             __m256i activations) {
    return _mm256_dpbusd_avx_epi32(sum, weights, activations);
  }
  QUERN_TARGET __attribute__((always_inline)) static __m256i widen(Sum sum) { return sum; }
  // Per half the sums over the half of a, b, c, d.
  QUERN_TARGET __attribute__((always_inline)) static __m256i reduce(Sum a, Sum b, Sum c, Sum d) {
    const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }
};

}  // namespace
}  // namespace quern::kernels

#include "quern/kernels/cpu/mxfp4_dot_256-inl.h"

namespace quern::kernels {

void mxfp4_dot_avx_vnni(const Mxfp4Product& product, std::byte* panel) { dot(product, panel); }
std::int64_t mxfp4_peak_avx_vnni(std::int64_t rounds) { return peak(rounds); }

}  // namespace quern::kernels
#endif  // __x86_64__
