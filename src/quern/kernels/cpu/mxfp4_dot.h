// Dot products of MXFP4 weight rows with MXFP4 activations, exact inside a block of 32.
// Twice an E2M1 value is a small integer, so a block's sum is an exact integer (|sum| <= 32 * 12 *
// 12 = 4608); it enters a float sum scaled by two powers of two. One order for every instruction
// set: lane b mod 8 takes block b, blocks ascending, then ((l0+l4)+(l2+l6)) + ((l1+l5)+(l3+l7)); so
// all implementations agree bit for bit. Must never add integer sums of different blocks: their
// scales differ. Proved by tests/kernels/mxfp4_dot_test.cc.
//
// Bound: 17 bytes a block of 32 weights from memory at one token; about 10 vector operations a
// block and token above.
#pragma once

#include <cstdint>
#include <span>

namespace quern::kernels {

inline constexpr std::int64_t kMxGroup = 8;  // blocks whose sums share a vector

// Activations of one token, in groups of 8 blocks (zero-padded).
struct QuantizedRow {
  const std::int8_t* codes =
      nullptr;  // [groups][8][32] doubled values; of a block first the even, then the odd
  const float* scales = nullptr;          // [groups][8] 2^(e - 127 - 2) / post_scale
  const std::int16_t* offsets = nullptr;  // [groups][8] 12 * sum of the block's codes
  float post_scale = 1;                   // multiplies the finished sum
};

// Where quantize_row() writes a QuantizedRow of n values: sizes padded to groups of 8 blocks.
struct QuantizedRowStorage {
  std::int8_t* codes = nullptr;
  float* scales = nullptr;
  std::int16_t* offsets = nullptr;
};

inline std::int64_t mx_groups(std::int64_t n) { return (n / 32 + kMxGroup - 1) / kMxGroup; }

// MXFP4 quantization of one token's BF16-valued activations; n is a multiple of 32. Non-finite
// values make the block's scale, and so the result, NaN.
QuantizedRow quantize_row(std::span<const float> x, const QuantizedRowStorage& storage);

// out[token * out_stride + row]; packed [rows, n/2] and scales [rows, n/32] as in the checkpoint.
void mxfp4_dot_tile(const std::uint8_t* packed, const std::uint8_t* scales, std::int64_t rows,
                    std::int64_t n, const QuantizedRow* const* x, std::int64_t tokens, float* out,
                    std::int64_t out_stride);

// The plain loop that mxfp4_dot_tile equals bit for bit.
void mxfp4_dot_tile_generic(const std::uint8_t* packed, const std::uint8_t* scales,
                            std::int64_t rows, std::int64_t n, const QuantizedRow* const* x,
                            std::int64_t tokens, float* out, std::int64_t out_stride);

#if defined(__x86_64__)
void mxfp4_dot_tile_avx2(const std::uint8_t* packed, const std::uint8_t* scales, std::int64_t rows,
                         std::int64_t n, const QuantizedRow* const* x, std::int64_t tokens,
                         float* out, std::int64_t out_stride);
#endif

}  // namespace quern::kernels
