// The CPU back end: projections to the cache, block selection, attention. See cpu_backend.h.
//
// Unit of work: (token, KV head). The query heads of a KV head are the columns of a small matrix
// product with a block of 128 keys, so that a block is read once for all of them; the softmax is
// streamed over the blocks, ascending. Bound, decode: 2 * 2 * head_dim bytes a key and KV head over
// the selected blocks, and 2 * index_dim bytes a key of the whole context for the scan.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "quern/kernels/block_selection.h"
#include "quern/kernels/cpu/cpu_backend.h"
#include "quern/kernels/cpu/dot_tile.h"

namespace quern::kernels {
namespace {

constexpr std::int32_t kScanBlocks = 16;                      // scored by one thread at a time
constexpr std::int64_t kBlockScores = std::int64_t{1} << 22;  // waiting; longer steps are cut

// Keys of block b that the query at `position` may see.
std::int64_t visible_keys(std::int32_t position, std::int32_t b) {
  return std::min<std::int64_t>(kBlockTokens, position + 1 - std::int64_t{b} * kBlockTokens);
}

}  // namespace

void CpuBackend::norm_rope(float* head, int dim, const AttentionSpec& spec, const Weight& weight,
                           std::int64_t token) const {
  if (spec.qk_norm) {
    const CpuWeight& w = cpu(weight);
    float sum = 0;
    for (int i = 0; i < dim; ++i) sum += head[i] * head[i];
    const float rstd = 1.0F / std::sqrt(sum / static_cast<float>(dim) + spec.norm_eps);
    for (int i = 0; i < dim; ++i) head[i] = head[i] * rstd * (1.0F + w.at(i));
  }
  const int half = rope_.half();
  const float* cos = rope_.cos(token);
  const float* sin = rope_.sin(token);
  for (int j = 0; j < half; ++j) {
    const float a = head[j];
    const float b = head[j + half];
    head[j] = a * cos[j] - b * sin[j];
    head[j + half] = b * cos[j] + a * sin[j];
  }
  for (int i = 0; i < dim; ++i) head[i] = round_to_bf16(head[i]);
}

void CpuBackend::write_cache(const AttentionWeights& weights, const AttentionSpec& spec,
                             Cache& cache, std::int64_t token, Matrix q, Matrix index_q, float* k,
                             const float* v, float* index_k) const {
  const int block = block_table(token)[position(token) / kBlockTokens];
  const int offset = position(token) % kBlockTokens;
  for (int h = 0; h < spec.num_heads; ++h) {
    norm_rope(host_row(q, token) + h * spec.head_dim, spec.head_dim, spec, *weights.q_norm, token);
  }
  for (int h = 0; h < spec.num_kv_heads; ++h) {
    float* head = k + h * spec.head_dim;
    norm_rope(head, spec.head_dim, spec, *weights.k_norm, token);
    BF16* k_slot = cache.k(spec.layer, block, h) + offset * spec.head_dim;
    BF16* v_slot = cache.v(spec.layer, block, h) + offset * spec.head_dim;
    for (int i = 0; i < spec.head_dim; ++i) {
      k_slot[i] = float_to_bf16(head[i]);
      v_slot[i] = float_to_bf16(v[h * spec.head_dim + i]);
    }
  }
  if (spec.num_index_heads == 0) return;
  for (int h = 0; h < spec.num_index_heads; ++h) {
    norm_rope(host_row(index_q, token) + h * spec.index_dim, spec.index_dim, spec,
              *weights.index_q_norm, token);
  }
  norm_rope(index_k, spec.index_dim, spec, *weights.index_k_norm, token);
  BF16* slot = cache.index(spec.layer, block) + offset * spec.index_dim;
  for (int i = 0; i < spec.index_dim; ++i) slot[i] = float_to_bf16(index_k[i]);
}

void CpuBackend::project_qkv(const AttentionWeights& weights, const AttentionSpec& spec, Matrix x,
                             KvCache& cache, Matrix q, Matrix index_q) {
  const std::int64_t tokens = num_tokens();
  const std::int64_t kv_cols = std::int64_t{spec.num_kv_heads} * spec.head_dim;
  float* k = qkv_.reserve(tokens * (2 * kv_cols + spec.index_dim));
  float* v = k + tokens * kv_cols;
  float* index_k = v + tokens * kv_cols;
  std::array<Projection, 5> all{Projection{&cpu(weights.q_proj), host(q)},
                                {&cpu(weights.k_proj), k},
                                {&cpu(weights.v_proj), v},
                                {},
                                {}};
  std::size_t count = 3;
  if (spec.num_index_heads > 0) {
    all[count++] = {&cpu(weights.index_q_proj), host(index_q)};
    all[count++] = {&cpu(weights.index_k_proj), index_k};
  }
  const std::span<const Projection> projections = std::span(all).first(count);
  prepare(projections, x.first_rows(tokens));
  project(projections, all_rows(tokens), true);
  team_.parallel_for(tokens, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      write_cache(weights, spec, host_cache(cache), t, q, index_q, k + t * kv_cols, v + t * kv_cols,
                  index_k + t * spec.index_dim);
    }
  });
}

void CpuBackend::score_blocks(const AttentionSpec& spec, const Cache& cache, std::int64_t token,
                              const float* index_q, std::int32_t begin, std::int32_t end,
                              float* best, std::int64_t stride, Worker& worker) const {
  const std::int64_t heads = spec.num_index_heads, dim = spec.index_dim;
  const std::int64_t values = index_queries(heads, dim);
  float* queries = worker.scores.reserve(values + index_scratch(heads, dim));
  std::fill_n(queries, values, 0.0F);
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t i = 0; i < dim; ++i)
      queries[index_query_place(heads, h, i)] = index_q[h * dim + i];
  }
  IndexBlock block;
  block.queries = queries;
  block.heads = heads;
  block.dim = dim;
  block.best_stride = stride;
  block.scratch = queries + values;
  for (std::int32_t b = begin; b < end; ++b) {
    block.keys = cache.index(spec.layer, block_table(token)[b]);
    block.num_keys = visible_keys(position(token), b);
    block.best = best + b;
    score_index_block(block);
  }
}

// Two regions a chunk of tokens: all scores, the work split by ranges of blocks too, because one
// token of a long context has much of it; then each token's choice. Neighbouring tokens of a range
// follow one another: its keys are in a cache.
void CpuBackend::select_blocks(const AttentionSpec& spec, Matrix index_q, const KvCache& cache,
                               BlockSelection selection) {
  const Cache& kv = host_cache(cache);
  const auto topk = static_cast<std::size_t>(spec.topk_blocks);
  const std::int64_t heads = spec.num_index_heads;
  const auto visible = [&](std::int64_t token) { return position(token) / kBlockTokens + 1; };
  std::int32_t most = 0;
  for (std::int64_t t = 0; t < num_tokens(); ++t) most = std::max(most, visible(t));
  const std::int64_t chunk =
      std::clamp<std::int64_t>(kBlockScores / (heads * most), 1, num_tokens());
  const std::int64_t ranges = most > spec.topk_blocks ? (most + kScanBlocks - 1) / kScanBlocks : 0;
  float* scores = block_scores_.reserve(chunk * heads * most);
  for (std::int64_t first = 0; first < num_tokens(); first += chunk) {
    const std::int64_t count = std::min(chunk, num_tokens() - first);
    team_.parallel_for(ranges * count, 1, [&](std::int64_t unit, std::int64_t, int thread) {
      const std::int64_t local = unit % count;
      const std::int64_t token = first + local;
      const auto begin = static_cast<std::int32_t>(unit / count) * kScanBlocks;
      if (visible(token) <= spec.topk_blocks) return;  // all are chosen
      score_blocks(spec, kv, token, host_row(index_q, token), begin,
                   std::min(begin + kScanBlocks, visible(token)), scores + local * heads * most,
                   most, workers_[static_cast<std::size_t>(thread)]);
    });
    team_.parallel_for(count, 1, [&](std::int64_t local, std::int64_t, int thread) {
      const auto blocks = static_cast<std::size_t>(visible(first + local));
      std::int32_t* order =
          workers_[static_cast<std::size_t>(thread)].order.reserve(visible(first + local));
      std::int32_t* chosen =
          selection.blocks + (first + local) * spec.num_kv_heads * spec.topk_blocks;
      for (std::int64_t g = 0; g < heads; ++g) {
        choose_blocks({scores + (local * heads + g) * most, blocks}, spec.init_blocks,
                      spec.local_blocks, {order, blocks}, {chosen + g * spec.topk_blocks, topk});
      }
    });
  }
}

void CpuBackend::attend(const AttentionSpec& spec, Matrix q, const KvCache& cache,
                        const BlockSelection* selection, Matrix out) {
  // Neighbouring tokens of one KV head follow one another: they share most of their blocks.
  team_.parallel_for(num_tokens() * spec.num_kv_heads, 1,
                     [&](std::int64_t begin, std::int64_t end, int thread) {
                       for (std::int64_t unit = begin; unit < end; ++unit) {
                         attend_unit(spec, q, host_cache(cache), selection, unit % num_tokens(),
                                     static_cast<int>(unit / num_tokens()), out,
                                     workers_[static_cast<std::size_t>(thread)]);
                       }
                     });
}

void CpuBackend::attend_unit(const AttentionSpec& spec, Matrix q, const Cache& cache,
                             const BlockSelection* selection, std::int64_t token, int kv_head,
                             Matrix out, Worker& worker) const {
  const std::int64_t heads = spec.num_heads / spec.num_kv_heads;
  const std::int64_t dim = spec.head_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const std::int64_t padded = (heads + kHeadPad - 1) / kHeadPad * kHeadPad;
  float* queries = worker.scores.reserve(padded * (dim + 2) + attention_scratch(padded, dim));
  AttentionBlock block;
  block.queries = queries;
  block.heads = padded;
  block.used_heads = heads;
  block.dim = dim;
  block.scale = scale;
  block.highest = queries + padded * dim;
  block.sum = block.highest + padded;
  block.scratch = block.sum + padded;
  block.acc = worker.acc.reserve(padded * dim);
  std::fill_n(queries, padded * dim, 0.0F);
  for (std::int64_t h = 0; h < heads; ++h) {
    const float* row = host_row(q, token) + (kv_head * heads + h) * dim;
    for (std::int64_t i = 0; i < dim; ++i) queries[i * padded + h] = row[i];
  }
  std::fill_n(block.highest, padded, -std::numeric_limits<float>::infinity());
  std::fill_n(block.sum, padded, 0.0F);
  std::fill_n(block.acc, padded * dim, 0.0F);

  const std::int32_t visible = position(token) / kBlockTokens + 1;
  const std::int32_t* chosen =
      selection == nullptr
          ? nullptr
          : selection->blocks + (token * spec.num_kv_heads + kv_head) * spec.topk_blocks;
  const std::int32_t count = chosen == nullptr ? visible : spec.topk_blocks;
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t b = chosen == nullptr ? i : chosen[i];
    if (b < 0) break;
    const int page = block_table(token)[b];
    block.k = cache.k(spec.layer, page, kv_head);
    block.v = cache.v(spec.layer, page, kv_head);
    block.keys = visible_keys(position(token), b);
    attend_block(block);
  }
  for (std::int64_t h = 0; h < heads; ++h) {
    float* row = host_row(out, token) + (kv_head * heads + h) * dim;
    for (std::int64_t i = 0; i < dim; ++i)
      row[i] = round_to_bf16(block.acc[h * dim + i] / block.sum[h]);
  }
}

}  // namespace quern::kernels
