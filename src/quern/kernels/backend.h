// The operations a model needs, one call per fused step, and the opaque memory they work on. A
// device implements Backend; nothing above kernels/ touches weights, activations or KV except
// through it. Must never expose a host pointer to device memory or depend on one model's sizes.
// Proved by tests/kernels/parity_test.cc (every back end against kernels/reference).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quern/base/tensor_view.h"

namespace quern::kernels {

// Tokens per KV block: the page of the cache and the unit of sparse selection (vLLM --block-size
// 128).
inline constexpr int kBlockTokens = 128;

enum class WeightFormat : std::uint8_t {
  kF32,
  kBF16,
  kMxfp4,            // MXFP4 weights, activations quantized to MXFP4 per token and block of 32
  kMxfp4WeightOnly,  // MXFP4 weights, activations as they come
};

// How products with MXFP4 weights and activations are computed (--moe-backend).
enum class MoeBackend : std::uint8_t {
  kNative,     // exact integer sums per block of 32, one float multiply-add a block
  kEmulation,  // operands decoded to float, float products (what vLLM's emulation does)
};

// A tensor of the checkpoint to bind: `weight` is [rows, cols] (or [rows] for a norm, rows x 1);
// for the MXFP4 formats `weight` is U8 [rows, cols/2] and `scale` U8 [rows, cols/32].
struct WeightSource {
  WeightFormat format = WeightFormat::kBF16;
  TensorView weight;
  TensorView scale;
};

// A bound weight; only the back end that made it knows what is inside. Keeps no checkpoint alive:
// the mapping outlives the handle.
class Weight {
 public:
  Weight(std::int64_t rows, std::int64_t cols, WeightFormat format)
      : rows_(rows), cols_(cols), format_(format) {}
  virtual ~Weight() = default;
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  std::int64_t rows() const { return rows_; }  // output features
  std::int64_t cols() const { return cols_; }  // input features, unpacked
  WeightFormat format() const { return format_; }

 private:
  std::int64_t rows_;
  std::int64_t cols_;
  WeightFormat format_;
};
using WeightHandle = std::unique_ptr<const Weight>;

// Activations [rows, cols] in device memory owned by the back end, in its own element type; rows
// lie one behind the other.
struct Matrix {
  void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  Matrix first_rows(std::int64_t count) const { return {data, count, cols}; }
  // The same memory in another shape that it has room for.
  Matrix view(std::int64_t new_rows, std::int64_t new_cols) const {
    return {data, new_rows, new_cols};
  }
};

// The keys and values of all layers in blocks of 128 tokens, and per sparse layer the indexer's
// keys.
struct KvCacheSpec {
  int num_blocks = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int index_dim = 0;
  std::vector<bool> layer_has_index;  // one entry a layer
};

class KvCache {
 public:
  explicit KvCache(KvCacheSpec spec) : spec_(std::move(spec)) {}
  virtual ~KvCache() = default;
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  const KvCacheSpec& spec() const { return spec_; }

 private:
  KvCacheSpec spec_;
};

// The tokens of one step, all sequences flattened. Host memory; begin_step() makes it known to the
// device.
struct StepTokens {
  std::span<const std::int32_t> token_ids;     // [tokens]
  std::span<const std::int32_t> positions;     // [tokens], absolute in the sequence
  std::span<const std::int32_t> sequences;     // [tokens], row of block_tables
  std::span<const std::int32_t> block_tables;  // [sequences, table_stride], block ids of the cache
  std::int64_t table_stride = 0;
};

// NeoX rotary embedding over the first rotary_dim values of a head.
struct RopeSpec {
  int rotary_dim = 0;
  float theta = 0;
};

struct AttentionSpec {
  int layer = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float norm_eps = 0;
  bool qk_norm = true;
  // Block selection; num_index_heads 0 = full attention.
  int num_index_heads = 0;
  int index_dim = 0;
  int topk_blocks = 0;
  int init_blocks = 0;
  int local_blocks = 0;
};

struct AttentionWeights {
  WeightHandle q_proj, k_proj, v_proj, o_proj, q_norm, k_norm;
  WeightHandle index_q_proj, index_k_proj, index_q_norm,
      index_k_norm;  // null on full-attention layers
};

// g = min(gate, limit); u = clamp(up, -limit, limit); g * sigmoid(alpha * g) * (u + beta).
struct SwigluSpec {
  float alpha = 0;
  float beta = 0;
  float limit = 0;
};

struct MlpWeights {
  WeightHandle gate_proj, up_proj, down_proj;
};

struct MoeSpec {
  int num_experts = 0;
  int experts_per_token = 0;
  float routed_scaling_factor = 1;
  SwigluSpec swiglu;
  bool expert_parallel = false;  // rank r holds the r-th of `ranks` equal runs of experts, whole
};

struct MoeWeights {
  WeightHandle gate;             // F32 [experts, hidden]
  WeightHandle correction_bias;  // F32 [experts]; null = none
  // Null handles: experts that are whole on another rank (expert parallel).
  std::vector<MlpWeights> experts;
  MlpWeights shared;  // null handles = no shared expert
};

// Per token the chosen experts, ascending rank, and their weights (sum 1).
struct Routing {
  std::int32_t* experts = nullptr;  // device, [tokens, experts_per_token]
  float* weights = nullptr;         // device, [tokens, experts_per_token]
};

// Per token and KV head the selected blocks of the sequence, ascending, -1 behind the last.
struct BlockSelection {
  std::int32_t* blocks = nullptr;  // device, [tokens, num_kv_heads, topk_blocks]
};

class VisionBackend;

// One device. Not thread-safe: one thread drives it. Tokens of all Matrix arguments of a call are
// those of the last begin_step(). Outputs never alias inputs unless a parameter says so.
//
// Where several ranks share a model each binds its part of the output rows of a matrix, and of
// attention its heads. embed, logits, mlp and moe exchange what they need and give every rank the
// whole result (logits: rank 0); of the others the outputs are the rank's columns, which
// gather_columns() puts together.
class Backend {
 public:
  virtual ~Backend() = default;

  // Start-up: weights and memory. Matrices live as long as the back end.
  virtual WeightHandle bind(const WeightSource& source) = 0;
  virtual Matrix allocate(std::int64_t rows, std::int64_t cols) = 0;
  virtual Routing allocate_routing(std::int64_t tokens, int experts_per_token) = 0;
  virtual BlockSelection allocate_selection(std::int64_t tokens, int num_kv_heads,
                                            int topk_blocks) = 0;
  virtual std::unique_ptr<KvCache> create_kv_cache(const KvCacheSpec& spec) = 0;
  // Bytes of one block over all layers.
  virtual std::int64_t kv_block_bytes(const KvCacheSpec& spec) const = 0;

  // A step: first the tokens, then the operations in the order of the layer.
  virtual void begin_step(const StepTokens& tokens, const RopeSpec& rope) = 0;

  // out [x.rows, ranks * x.cols] = the ranks' x side by side. Only where there are several.
  virtual void gather_columns(Matrix x, Matrix out) = 0;
  // The other way: this rank's columns of x.
  virtual void own_columns(Matrix x, Matrix out) = 0;

  // out[t] = table[token_ids[t]]; a rank's table is its part of the vocabulary.
  virtual void embed(const Weight& table, Matrix out) = 0;

  // Gemma RMSNorm: x / sqrt(mean(x^2) + eps) * (1 + weight).
  virtual void rms_norm(Matrix x, const Weight& weight, float eps, Matrix out) = 0;

  // residual += x (stored rounded); out = rms_norm of the unrounded sum.
  virtual void add_rms_norm(Matrix x, Matrix residual, const Weight& weight, float eps,
                            Matrix out) = 0;

  // out [tokens, rows] = x [tokens, cols] weight^T.
  virtual void linear(const Weight& weight, Matrix x, Matrix out) = 0;

  // Projects x to q, k, v (and the indexer's q, k), norms and rotates each head, writes k, v and
  // index k to the cache; q [tokens, heads * head_dim], index_q [tokens, index_heads * index_dim]
  // (unused when the layer has none).
  virtual void project_qkv(const AttentionWeights& weights, const AttentionSpec& spec, Matrix x,
                           KvCache& cache, Matrix q, Matrix index_q) = 0;

  // Scores all visible blocks of the index-key cache and keeps the best topk_blocks for each KV
  // head.
  virtual void select_blocks(const AttentionSpec& spec, Matrix index_q, const KvCache& cache,
                             BlockSelection selection) = 0;

  // Causal attention over the selected blocks (null: over all); out [tokens, heads * head_dim].
  // Blocks that are not selected are not read.
  virtual void attend(const AttentionSpec& spec, Matrix q, const KvCache& cache,
                      const BlockSelection* selection, Matrix out) = 0;

  // out = down(swiglu(gate(x), up(x))).
  virtual void mlp(const MlpWeights& weights, const SwigluSpec& swiglu, Matrix x, Matrix out) = 0;

  // Sigmoid router with selection bias: chooses experts_per_token, weights normalized over the
  // chosen.
  virtual void route(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing) = 0;

  // out = routed_scaling_factor * sum_k weight_k expert_k(x) + shared(x).
  virtual void moe(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing,
                   Matrix out) = 0;

  // logits [rows.size(), vocabulary] (host) = head of the given rows of x; on ranks other than 0
  // nothing is written.
  virtual void logits(const Weight& head, Matrix x, std::span<const std::int32_t> rows,
                      std::span<float> logits) = 0;

  // Rows from host memory, from `row` on, in the back end's precision; values.size() is a multiple
  // of matrix.cols.
  virtual void write(Matrix matrix, std::int64_t row, std::span<const float> values) = 0;

  // The operations of the vision tower (vision_backend.h); lives as long as the back end.
  virtual VisionBackend& vision() = 0;

  // Copies for tests, traces and tools; not part of a step.
  virtual void read(Matrix matrix, std::int64_t row, std::span<float> values) = 0;
  virtual void read(const Routing& routing, std::int64_t count,
                    std::span<std::int32_t> experts) = 0;
  virtual void read(const BlockSelection& selection, std::int64_t count,
                    std::span<std::int32_t> blocks) = 0;
  // Overwrites K and V of one block of one layer and KV head.
  virtual void fill_kv_block(KvCache& cache, int layer, int kv_head, int block, float value) = 0;
  // Overwrites keys, values and index keys of all blocks with random values of variance 1, as keys
  // have behind their norm; the same for the same seed. For measuring steps behind long contexts
  // that nobody computed.
  virtual void fill_kv_random(KvCache& cache, std::uint64_t seed) = 0;
};

}  // namespace quern::kernels
