// Dot products of a tile of weight rows with the rows of some tokens: the inner loops of linear,
// attention scores and the indexer. One order of accumulation per instruction set (lanes of one
// vector, elements ascending, a fixed tree, then the tail), whatever the tile, so that a token's
// result never depends on its neighbours. Must never read outside rows x n or allocate. Proved by
// tests/kernels/dot_test.cc.
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

// One block of the indexer's keys: the largest score of each head. A score is four sums (elements
// 8 i + 2 p and 8 i + 2 p + 1 in sum p; i ascending), which lie side by side in a vector next to
// those of other heads; so keys are read once for all heads and nothing crosses lanes until the
// end.
struct IndexBlock {
  const float* queries = nullptr;  // [index_pad(dim) / 8][even, odd][heads padded to 4][4]
  std::int64_t heads = 0;          // without the padding
  std::int64_t dim = 0;            // without the padding
  const BF16* keys = nullptr;      // [num_keys][dim]
  std::int64_t num_keys = 0;       // at least 1
  float* best = nullptr;           // best[head * best_stride]
  std::int64_t best_stride = 1;
  float* scratch = nullptr;  // [index_scratch(heads, dim)]
};

inline constexpr std::int64_t kIndexKeys = 8;  // worked on at a time
inline std::int64_t index_pad(std::int64_t dim) { return (dim + 7) / 8 * 8; }
inline std::int64_t index_pad_heads(std::int64_t heads) { return (heads + 3) / 4 * 4; }
// Floats of IndexBlock::queries and where element i of a head's query is among them.
inline std::int64_t index_queries(std::int64_t heads, std::int64_t dim) {
  return index_pad(dim) * index_pad_heads(heads);
}
inline std::int64_t index_query_place(std::int64_t heads, std::int64_t head, std::int64_t i) {
  return ((i / 8 * 2 + i % 2) * index_pad_heads(heads) + head) * 4 + i % 8 / 2;
}
inline std::int64_t index_scratch(std::int64_t heads, std::int64_t dim) {
  return kIndexKeys * index_pad(dim) / 2 + index_pad_heads(heads) * 4;
}

void score_index_block(const IndexBlock& block);

// One block of keys and values of streamed-softmax attention, for the query heads of one KV head.
// The heads lie in the lanes of a vector, so nothing is summed across lanes; `heads` is padded with
// zero queries to a multiple of kHeadPad. Order: dim ascending, keys ascending.
inline constexpr std::int64_t kHeadPad = 16;

struct AttentionBlock {
  const float* queries = nullptr;  // [dim][heads]
  std::int64_t heads = 0;
  std::int64_t used_heads = 0;  // without the padding
  std::int64_t dim = 0;
  float scale = 1;
  const BF16* k = nullptr;   // [keys][dim]
  const BF16* v = nullptr;   // [keys][dim]
  std::int64_t keys = 0;     // at most 128
  float* highest = nullptr;  // [heads] of the scores so far; -infinity before the first block
  float* sum = nullptr;      // [heads] of exp(score - highest); 0 before the first block
  float* acc = nullptr;      // [heads][dim] sum of bf16(exp(score - highest)) * v
  float* scratch = nullptr;  // [attention_scratch(heads, dim)]
};

inline std::int64_t attention_scratch(std::int64_t heads, std::int64_t dim) {
  return 8 * dim + 129 * heads;
}

void attend_block(const AttentionBlock& block);

}  // namespace quern::kernels
