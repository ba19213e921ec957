// Dot products of a tile of weight rows with the rows of some tokens: the inner loops of linear,
// attention scores and the indexer. One order of accumulation per instruction set (lanes of one
// vector, elements ascending, a fixed tree, then the tail), whatever the tile, so that a token's
// result never depends on its neighbours. Must never read outside rows x n or allocate. Proved by
// tests/kernels/dot_tile_test.cc.
//
// Bound: one token reads each weight byte once (memory bandwidth); from about 8 tokens on float
// multiply-adds limit (AVX2: 16 a cycle).
#pragma once

#include <cstdint>

#include "quern/numerics/bf16.h"

namespace quern::kernels {

// out[token * out_stride + row] = sum over i < n of weight[row * weight_stride + i] * x[token][i].
void dot_tile(const BF16* weight, std::int64_t weight_stride, std::int64_t rows,
              const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
              std::int64_t out_stride);
void dot_tile(const float* weight, std::int64_t weight_stride, std::int64_t rows,
              const float* const* x, std::int64_t tokens, std::int64_t n, float* out,
              std::int64_t out_stride);

// One row of attention probabilities: values[i] = bf16(exp(values[i] * scale - highest)); returns
// the sum of the unrounded ones. n <= 128.
float softmax_row(float* values, std::int64_t n, float scale, float highest);

// acc[head][i] = acc[head][i] * rescale[head] + sum over j < keys, ascending, of p[head * p_stride
// + j] * v[j * dim + i].
void accumulate_values(const float* p, std::int64_t p_stride, std::int64_t heads, std::int64_t keys,
                       const BF16* v, std::int64_t dim, const float* rescale, float* acc);

}  // namespace quern::kernels
