// The inner loops of products of many rows with a weight, and of full attention: register tiles of
// a packed panel, the packing, and what is done with finished sums. An output is one chain of
// multiply-adds, elements ascending, whatever the tile, so that a row's result never depends on its
// neighbours (matrix units have an order of their own, as fixed: gemm_tile_amx.cc). Must never read
// outside what the comments promise, or allocate.
// Proved by tests/kernels/vision_parity_test.cc (every instruction set against the oracle).
//
// Bound: multiply-adds (AVX-512: 32 floats a cycle and unit pair, 28 sums in registers; AMX: 512
// BF16 numbers a cycle).
#pragma once

#include <cstdint>

#include "quern/numerics/bf16.h"

namespace quern::kernels {

// Elements of a sum that are worked on at a time, and the distance of the rows of an x buffer
// (known to the compiler; not a multiple of a cache way).
inline constexpr std::int64_t kTileDepth = 192;
inline constexpr std::int64_t kTileStride = kTileDepth + 16;

// Rows and columns of a register tile; half the columns is one vector.
struct TileShape {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t depth = 1;  // sums are over a multiple of it: what is missing counts as zeros

  std::int64_t pad_rows(std::int64_t n) const { return (n + rows - 1) / rows * rows; }
  std::int64_t pad_cols(std::int64_t n) const { return (n + cols - 1) / cols * cols; }
  std::int64_t pad_vector(std::int64_t n) const {
    return (n + cols / 2 - 1) / (cols / 2) * (cols / 2);
  }
  std::int64_t pad_depth(std::int64_t n) const { return (n + depth - 1) / depth * depth; }
};

// Products of tiles on one kind of unit. Buffers are counted in floats whatever lies in them: units
// for BF16 put their elements where they like inside a row of x and inside a panel's pairs of rows.
struct TileKernel {
  TileShape shape;
  std::int64_t part_rows;  // of x that one packed panel is used for, a multiple of the tile's

  // A row of x: to[0, pad_depth(cols)) from BF16 numbers in floats; cols at most kTileDepth. `from`
  // and `to` may be the same.
  void (*pack_row)(const float* from, std::int64_t cols, float* to);
  // panel[i * shape.cols + r] = weight[r * stride + i], i < pad_depth(depth); zero for r >= rows.
  void (*pack_bf16)(const BF16* weight, std::int64_t stride, std::int64_t rows, std::int64_t depth,
                    float* panel);
  void (*pack_floats)(const float* weight, std::int64_t stride, std::int64_t rows,
                      std::int64_t depth, float* panel);
  // panel[j * cols + c] = values[j * stride + c], j < pad_depth(count); zero for c >= filled.
  void (*pack_values)(const float* values, std::int64_t stride, std::int64_t count,
                      std::int64_t filled, std::int64_t cols, float* panel);
  // sums[r * sums_stride + c] (+)= sum over i < depth of x[r * kTileStride + i] * panel[i * cols +
  // c] for all rows of a tile; cols is shape.cols or half of it, depth at most kTileDepth.
  void (*multiply)(const float* x, const float* panel, std::int64_t depth, std::int64_t cols,
                   float* sums, std::int64_t sums_stride, bool add);
};
TileKernel vector_tile_kernel();      // floats; of the best instruction set
const TileKernel* amx_tile_kernel();  // BF16; null where it cannot run

// What becomes of sums + bias, everything rounded to BF16.
enum class Finish : std::uint8_t {
  kStore,  // out = sum
  kGelu,   // out = gelu(sum)
  kAdd,    // out = out + sum
};
void finish_row(const float* sums, const float* bias, std::int64_t n, Finish finish, float* out);

// One row of a streamed softmax: values[i] = bf16(exp(values[i] * scale - highest)), where
// `highest` becomes the largest value * scale so far; `sum` grows by the unrounded ones. Returns
// what everything summed before has to be multiplied with (sum already is). Writes up to the next
// multiple of a vector behind n.
float stream_softmax_row(float* values, std::int64_t n, float scale, float& highest, float& sum);

// values *= factor.
void scale_row(float* values, std::int64_t n, float factor);

// out = bf16((x - mean) / sqrt(variance + eps) * weight + bias); mean and variance in float32,
// vector lanes in one fixed order.
void layer_norm_row(const float* x, const float* weight, const float* bias, float eps,
                    std::int64_t n, float* out);

}  // namespace quern::kernels
