// The MXFP4 products for AVX2: pmaddubsw multiplies unsigned by signed and adds pairs in int16 (a
// lane gains at most 576 a step and 9216 a block: it cannot overflow inside one).
// Must never run without AVX2 and FMA: mxfp4_kernels() checks. Proved by tests/kernels/dot_test.cc.
#if defined(__x86_64__)
#include <immintrin.h>

#define QUERN_TARGET __attribute__((target("avx2,fma")))

namespace quern::kernels {
namespace {

struct Ops {
  using Sum = __m256i;  // 16 x int16
  QUERN_TARGET __attribute__((always_inline)) static Sum zero() { return _mm256_setzero_si256(); }
  QUERN_TARGET __attribute__((always_inline)) static Sum add(Sum sum, __m256i weights,
                                                             __m256i activations) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, activations));
  }
  // 8 x int32: pairs added.
  QUERN_TARGET __attribute__((always_inline)) static __m256i widen(Sum sum) {
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
  }
  // Per half the sums over the half of a, b, c, d.
  QUERN_TARGET __attribute__((always_inline)) static __m256i reduce(Sum a, Sum b, Sum c, Sum d) {
    return widen(_mm256_hadd_epi16(_mm256_hadd_epi16(a, b), _mm256_hadd_epi16(c, d)));
  }
};

}  // namespace
}  // namespace quern::kernels

#include "quern/kernels/cpu/mxfp4_dot_256-inl.h"

namespace quern::kernels {

void mxfp4_dot_avx2(const Mxfp4Product& product, std::byte* panel) { dot(product, panel); }
std::int64_t mxfp4_peak_avx2(std::int64_t rounds) { return peak(rounds); }

}  // namespace quern::kernels
#endif  // __x86_64__
