// Register tiles of BF16 numbers (AMX): products of activations and weights that are BF16 already
// are exact, sums are float32 in the unit's fixed order: blocks of 32 elements ascending, inside a
// block even and odd elements apart. Subnormal numbers count as zero.
// Must never run without AMX-BF16 and AVX-512, or where the system keeps no room for the tiles:
// amx_tile_kernel() checks. Proved by tests/kernels/vision_parity_test.cc.
//
// Bound: 16 x 16 x 32 multiply-adds in 16 cycles, from four sums of 16 x 16.
#include "quern/kernels/cpu/gemm_tile.h"

#if defined(__x86_64__) && defined(__linux__)
// GCC 12's AVX-512 header leaves operands undefined on purpose and then warns of it (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace quern::kernels {
namespace {

#define QUERN_VECTORS __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define QUERN_TILES __attribute__((target("amx-tile,amx-bf16")))

constexpr std::int64_t kSide = 16;   // rows of a tile, and columns of sums
constexpr std::int64_t kBlock = 32;  // elements of a row of a tile
constexpr std::int64_t kCols = 2 * kSide;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// GCC's tile loads do not tell the compiler that they read what lies at an address.
inline void settle_memory(const void* at) { __asm__ volatile("" : : "r"(at) : "memory"); }

// All eight tiles are 16 rows of 64 bytes. Once a thread.
QUERN_TILES void configure() {
  thread_local bool done = false;
  if (done) return;
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = kSide;
  }
  settle_memory(&config);
  _tile_loadconfig(&config);
  done = true;
}

// BF16 of floats that are BF16 numbers, 32 at a time. In place as well: what is written lies behind
// what is still to be read.
QUERN_VECTORS void pack_row(const float* from, std::int64_t cols, float* slots) {
  auto* to = reinterpret_cast<std::uint16_t*>(slots);
  for (std::int64_t i = 0; i < cols; i += kSide, to += kSide) {
    const auto mask = static_cast<__mmask16>((1U << std::min<std::int64_t>(kSide, cols - i)) - 1);
    const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, from + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
  }
  if ((cols + kSide - 1) / kSide % 2 != 0)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_setzero_si256());
}

QUERN_VECTORS __m512i load_block(const BF16* from, std::int64_t count) {
  const auto mask = static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
  return _mm512_maskz_loadu_epi16(mask, from);
}

QUERN_VECTORS __m512i load_block(const float* from, std::int64_t count) {
  float block[kBlock] = {};
  pack_row(from, count, block);
  return _mm512_loadu_si512(block);
}

// Rows of 16 words become columns.
QUERN_VECTORS void transpose(__m512i (&m)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    m[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    m[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    m[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    m[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // m[4 g + c] holds, in its lane l of four words, column 4 l + c of rows 4 g to 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(m[c], m[4 + c], 0x44);
    const __m512i low23 = _mm512_shuffle_i32x4(m[8 + c], m[12 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(m[c], m[4 + c], 0xEE);
    const __m512i high23 = _mm512_shuffle_i32x4(m[8 + c], m[12 + c], 0xEE);
    t[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
    t[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
  }
  for (int i = 0; i < 16; ++i) m[i] = t[i];
}

// A block of 32 elements of 16 rows at a time: pairs of elements of a row are words.
template <typename Element>
QUERN_VECTORS void pack_columns(const Element* weight, std::int64_t stride, std::int64_t rows,
                                std::int64_t depth, float* panel) {
  for (std::int64_t half = 0; half < kCols; half += kSide) {
    for (std::int64_t i = 0; i < depth; i += kBlock) {
      __m512i pairs[16];
      for (std::int64_t r = 0; r < kSide; ++r) {
        pairs[r] = half + r < rows
                       ? load_block(weight + (half + r) * stride + i, std::min(kBlock, depth - i))
                       : _mm512_setzero_si512();
      }
      transpose(pairs);
      for (std::int64_t p = 0; p < kSide; ++p)
        _mm512_storeu_si512(panel + (i + 2 * p) * kCols + half, pairs[p]);
    }
  }
}

void pack_bf16(const BF16* weight, std::int64_t stride, std::int64_t rows, std::int64_t depth,
               float* panel) {
  pack_columns(weight, stride, rows, depth, panel);
}

void pack_floats(const float* weight, std::int64_t stride, std::int64_t rows, std::int64_t depth,
                 float* panel) {
  pack_columns(weight, stride, rows, depth, panel);
}

QUERN_VECTORS __m512i load_values(const float* from, std::int64_t count) {
  const auto mask = static_cast<__mmask16>((1U << count) - 1);
  return _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, from));
}

// Pairs of neighbouring rows.
QUERN_VECTORS void pack_values(const float* values, std::int64_t stride, std::int64_t count,
                               std::int64_t filled, std::int64_t cols, float* panel) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  for (std::int64_t j = 0; j < (count + kBlock - 1) / kBlock * kBlock; j += 2) {
    for (std::int64_t c = 0; c < cols; c += kSide) {
      const std::int64_t some = std::clamp<std::int64_t>(filled - c, 0, kSide);
      const float* from = values + j * stride + c;
      const __m512i first = load_values(from, j < count ? some : 0);
      const __m512i second = load_values(from + stride, j + 1 < count ? some : 0);
      const __m512i pair =
          _mm512_or_si512(_mm512_and_si512(second, high), _mm512_srli_epi32(first, 16));
      _mm512_storeu_si512(panel + j * cols + c, pair);
    }
  }
}

template <bool kTwo>
QUERN_TILES void multiply_columns(const float* x, const float* panel, std::int64_t depth,
                                  std::int64_t cols, float* sums, std::int64_t sums_stride,
                                  bool add) {
  const auto bytes = [](std::int64_t floats) { return static_cast<long>(floats) * 4; };
  float* lower = sums + kSide * sums_stride;
  settle_memory(x);
  if (add) {
    _tile_loadd(0, sums, bytes(sums_stride));
    _tile_loadd(2, lower, bytes(sums_stride));
    if (kTwo) _tile_loadd(1, sums + kSide, bytes(sums_stride));
    if (kTwo) _tile_loadd(3, lower + kSide, bytes(sums_stride));
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t i = 0; i < depth; i += kBlock) {
    const float* rows = x + i / 2;  // BF16 elements are half as long
    _tile_loadd(4, rows, bytes(kTileStride));
    _tile_loadd(6, panel + i * cols, bytes(2 * cols));
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, rows + kSide * kTileStride, bytes(kTileStride));
    _tile_dpbf16ps(2, 5, 6);
    if (kTwo) {
      _tile_loadd(7, panel + i * cols + kSide, bytes(2 * cols));
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, bytes(sums_stride));
  _tile_stored(2, lower, bytes(sums_stride));
  if (kTwo) _tile_stored(1, sums + kSide, bytes(sums_stride));
  if (kTwo) _tile_stored(3, lower + kSide, bytes(sums_stride));
}

void multiply(const float* x, const float* panel, std::int64_t depth, std::int64_t cols,
              float* sums, std::int64_t sums_stride, bool add) {
  configure();
  if (cols == kCols) {
    multiply_columns<true>(x, panel, depth, cols, sums, sums_stride, add);
  } else {
    multiply_columns<false>(x, panel, depth, cols, sums, sums_stride, add);
  }
}

// The processor has the instructions, and the system gives this process room for the tiles.
bool usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kAmxBf16 = 1U << 22, kAmxTile = 1U << 24;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return false;
  }
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const TileKernel* amx_tile_kernel() {
  static const bool ready = usable();
  static const TileKernel kernel{.shape = {2 * kSide, kCols, kBlock},
                                 .part_rows = 768,
                                 .pack_row = pack_row,
                                 .pack_bf16 = pack_bf16,
                                 .pack_floats = pack_floats,
                                 .pack_values = pack_values,
                                 .multiply = multiply};
  return ready ? &kernel : nullptr;
}

}  // namespace quern::kernels

#else

namespace quern::kernels {

const TileKernel* amx_tile_kernel() { return nullptr; }

}  // namespace quern::kernels

#endif
