// See text_model.h. The order of operations is vLLM's models/minimax_m3/amd/model.py.
#include "quern/model/text_model.h"

#include <algorithm>
#include <string>
#include <utility>

#include "quern/base/error.h"
#include "quern/checkpoint/validate.h"
#include "quern/model/binder.h"
#include "quern/model/vision_tower.h"

namespace quern::model {
namespace {

using kernels::Matrix;
using kernels::WeightHandle;

// Checks every tensor that config.json promises; a checkpoint without a vision tower serves text
// alone.
void validate(const Checkpoint& checkpoint, const ModelConfig& config) {
  ModelConfig promised = config;
  if (!VisionTower::present(checkpoint, config)) promised.vision_config.reset();
  validate_tensors(promised, checkpoint);
}

struct Layer {
  WeightHandle input_norm, post_attention_norm;
  kernels::AttentionSpec attention_spec;
  kernels::AttentionWeights attention;
  bool is_moe = false;
  kernels::MlpWeights mlp;
  kernels::MoeWeights moe;
};

kernels::AttentionSpec attention_spec(const TextConfig& config, const Sharding& sharding,
                                      int layer) {
  kernels::AttentionSpec spec;
  spec.layer = layer;
  spec.num_heads = local_heads(config, sharding);
  spec.num_kv_heads = local_kv_heads(config, sharding);
  spec.head_dim = static_cast<int>(config.head_dim);
  spec.norm_eps = static_cast<float>(config.rms_norm_eps);
  spec.qk_norm = config.use_qk_norm;
  if (!config.is_sparse_attention_layer(layer)) return spec;
  const SparseAttentionConfig& sparse = *config.sparse_attention_config;
  spec.num_index_heads =
      sharding.size == 1 ? static_cast<int>(sparse.sparse_num_index_heads) : spec.num_kv_heads;
  spec.index_dim = static_cast<int>(sparse.sparse_index_dim);
  spec.topk_blocks = static_cast<int>(sparse.sparse_topk_blocks);
  spec.init_blocks = static_cast<int>(sparse.sparse_init_block);
  spec.local_blocks = static_cast<int>(sparse.sparse_local_block);
  return spec;
}

kernels::AttentionWeights bind_attention(const Binder& binder, const TextConfig& config, int layer,
                                         const std::string& prefix) {
  kernels::AttentionWeights w;
  w.q_proj = binder.module(prefix + "q_proj");
  w.k_proj = binder.module(prefix + "k_proj");
  w.v_proj = binder.module(prefix + "v_proj");
  w.o_proj = binder.module(prefix + "o_proj");
  if (config.use_qk_norm) {
    w.q_norm = binder.tensor(prefix + "q_norm.weight");
    w.k_norm = binder.tensor(prefix + "k_norm.weight");
  }
  if (!config.is_sparse_attention_layer(layer)) return w;
  w.index_q_proj = binder.module(prefix + "index_q_proj");
  w.index_k_proj = binder.module(prefix + "index_k_proj");
  w.index_q_norm = binder.tensor(prefix + "index_q_norm.weight");
  w.index_k_norm = binder.tensor(prefix + "index_k_norm.weight");
  return w;
}

kernels::MlpWeights bind_mlp(const Binder& binder, const std::string& prefix, const char* gate,
                             const char* up, const char* down) {
  return {binder.module(prefix + gate), binder.module(prefix + up), binder.module(prefix + down)};
}

kernels::MoeWeights bind_moe(const Binder& binder, const TextConfig& config,
                             const std::string& prefix) {
  kernels::MoeWeights w;
  w.gate = binder.tensor(prefix + "gate.weight");
  if (config.use_routing_bias)
    w.correction_bias = binder.f32_tensor(prefix + "e_score_correction_bias");
  for (std::int64_t e = 0; e < config.num_local_experts; ++e) {
    // On disk w1 is the gate, w3 up, w2 down.
    w.experts.push_back(
        bind_mlp(binder, fmt::format("{}experts.{}.", prefix, e), "w1", "w3", "w2"));
  }
  if (config.n_shared_experts > 0) {
    w.shared = bind_mlp(binder, prefix + "shared_experts.", "gate_proj", "up_proj", "down_proj");
  }
  return w;
}

}  // namespace

struct TextModel::Impl {
  Impl(const Checkpoint& checkpoint, const ModelConfig& model_config, kernels::Backend& device,
       const ModelLimits& model_limits, const Sharding& model_sharding)
      : config(model_config.text_config),
        backend(device),
        limits(model_limits),
        sharding(model_sharding) {
    check_supported(model_config);
    check_sharding(model_config, sharding, false);
    validate(checkpoint, model_config);
    bind(checkpoint, model_config);
    allocate();
  }

  void bind(const Checkpoint& checkpoint, const ModelConfig& model_config) {
    const Binder binder(checkpoint, model_config, backend, sharding);
    embed_tokens = binder.tensor("language_model.model.embed_tokens.weight");
    final_norm = binder.tensor("language_model.model.norm.weight");
    lm_head = binder.module("language_model.lm_head");
    swiglu = {static_cast<float>(config.swiglu_alpha), static_cast<float>(config.swiglu_beta),
              static_cast<float>(config.swiglu_limit)};
    moe_spec = {static_cast<int>(config.num_local_experts),
                static_cast<int>(config.num_experts_per_tok),
                static_cast<float>(config.routed_scaling_factor), swiglu, sharding.expert_parallel};
    for (int i = 0; i < static_cast<int>(config.num_hidden_layers); ++i) {
      const std::string prefix = fmt::format("language_model.model.layers.{}.", i);
      Layer layer;
      layer.input_norm = binder.tensor(prefix + "input_layernorm.weight");
      layer.post_attention_norm = binder.tensor(prefix + "post_attention_layernorm.weight");
      layer.attention_spec = attention_spec(config, sharding, i);
      layer.attention = bind_attention(binder, config, i, prefix + "self_attn.");
      layer.is_moe = config.is_moe_layer(i);
      if (layer.is_moe) {
        layer.moe = bind_moe(binder, config, prefix + "block_sparse_moe.");
      } else {
        layer.mlp = bind_mlp(binder, prefix + "mlp.", "gate_proj", "up_proj", "down_proj");
      }
      layers.push_back(std::move(layer));
    }
  }

  void allocate() {
    const std::int64_t tokens = limits.max_step_tokens;
    x = backend.allocate(tokens, config.hidden_size);
    branch = backend.allocate(tokens, config.hidden_size);
    residual = backend.allocate(tokens, config.hidden_size);
    attended = backend.allocate(tokens, config.num_attention_heads * config.head_dim);
    const std::int64_t heads = local_heads(config, sharding);
    q = backend.allocate(tokens, heads * config.head_dim);
    if (sharding.size > 1) {
      own_attended = backend.allocate(tokens, heads * config.head_dim);
      own_branch = backend.allocate(tokens, config.hidden_size / sharding.size);
    }
    if (config.sparse_attention_config) {
      const SparseAttentionConfig& sparse = *config.sparse_attention_config;
      const int kv_heads = local_kv_heads(config, sharding);
      const std::int64_t index_heads =
          sharding.size == 1 ? sparse.sparse_num_index_heads : kv_heads;
      index_q = backend.allocate(tokens, index_heads * sparse.sparse_index_dim);
      selection =
          backend.allocate_selection(tokens, kv_heads, static_cast<int>(sparse.sparse_topk_blocks));
    }
    routing = backend.allocate_routing(tokens, std::max(1, moe_spec.experts_per_token));
    hidden_row.resize(static_cast<std::size_t>(config.hidden_size));
  }

  // Flattens the chunks into the step's token list.
  void set_tokens(std::span<const SequenceChunk> chunks) {
    token_ids.clear();
    positions.clear();
    sequences.clear();
    logit_rows.clear();
    std::size_t stride = 0;
    for (const SequenceChunk& chunk : chunks) stride = std::max(stride, chunk.block_table.size());
    block_tables.assign(chunks.size() * stride, 0);
    for (std::size_t s = 0; s < chunks.size(); ++s) {
      const SequenceChunk& chunk = chunks[s];
      QUERN_CHECK(!chunk.token_ids.empty());
      std::copy(chunk.block_table.begin(), chunk.block_table.end(),
                block_tables.begin() + static_cast<std::ptrdiff_t>(s * stride));
      for (std::size_t i = 0; i < chunk.token_ids.size(); ++i) {
        QUERN_CHECK(chunk.token_ids[i] >= 0 && chunk.token_ids[i] < config.vocab_size, "token {}",
                    chunk.token_ids[i]);
        token_ids.push_back(chunk.token_ids[i]);
        positions.push_back(chunk.start_position + static_cast<std::int32_t>(i));
        sequences.push_back(static_cast<std::int32_t>(s));
      }
      QUERN_CHECK(static_cast<std::size_t>(positions.back()) / kernels::kBlockTokens <
                  chunk.block_table.size());
      if (chunk.wants_logits) logit_rows.push_back(static_cast<std::int32_t>(token_ids.size()) - 1);
    }
    QUERN_CHECK(token_ids.size() <= static_cast<std::size_t>(limits.max_step_tokens));
    backend.begin_step(
        {token_ids, positions, sequences, block_tables, static_cast<std::int64_t>(stride)},
        {static_cast<int>(config.rotary_dim), static_cast<float>(config.rope_theta)});
  }

  void run_layer(int index, kernels::KvCache& cache, Matrix stream, Matrix in, Matrix out,
                 const ForwardTrace* trace) {
    const Layer& layer = layers[static_cast<std::size_t>(index)];
    const kernels::AttentionSpec& spec = layer.attention_spec;
    const auto rows = stream.rows;
    const float eps = static_cast<float>(config.rms_norm_eps);
    backend.project_qkv(layer.attention, spec, in, cache, q.first_rows(rows),
                        index_q.first_rows(rows));
    const bool sparse = spec.num_index_heads > 0;
    if (sparse) backend.select_blocks(spec, index_q.first_rows(rows), cache, selection);
    attend(layer, cache, sparse ? &selection : nullptr, rows, out);
    backend.add_rms_norm(out, stream, *layer.post_attention_norm, eps, in);
    if (layer.is_moe) {
      backend.route(layer.moe, moe_spec, in, routing);
      backend.moe(layer.moe, moe_spec, in, routing, out);
    } else {
      backend.mlp(layer.mlp, swiglu, in, out);
    }
    if (trace != nullptr) observe(index, rows, *trace);
  }

  // Attention and its output projection; heads, then columns of the output, come from all ranks.
  void attend(const Layer& layer, kernels::KvCache& cache, const kernels::BlockSelection* blocks,
              std::int64_t rows, Matrix out) {
    const Matrix heads = attended.first_rows(rows);
    const Matrix queries = q.first_rows(rows);
    if (sharding.size == 1) {
      backend.attend(layer.attention_spec, queries, cache, blocks, heads);
      backend.linear(*layer.attention.o_proj, heads, out);
      return;
    }
    backend.attend(layer.attention_spec, queries, cache, blocks, own_attended.first_rows(rows));
    backend.gather_columns(own_attended.first_rows(rows), heads);
    backend.linear(*layer.attention.o_proj, heads, own_branch.first_rows(rows));
    backend.gather_columns(own_branch.first_rows(rows), out);
  }

  void observe(int index, std::int64_t rows, const ForwardTrace& trace) {
    const Layer& layer = layers[static_cast<std::size_t>(index)];
    const kernels::AttentionSpec& spec = layer.attention_spec;
    if (trace.on_routing && layer.is_moe) {
      std::vector<std::int32_t> experts(
          static_cast<std::size_t>(rows * moe_spec.experts_per_token));
      backend.read(routing, rows * moe_spec.experts_per_token, experts);
      trace.on_routing(index, experts);
    }
    if (trace.on_selection && spec.num_index_heads > 0) {
      const std::int64_t count = rows * spec.num_kv_heads * spec.topk_blocks;
      std::vector<std::int32_t> blocks(static_cast<std::size_t>(count));
      backend.read(selection, count, blocks);
      trace.on_selection(index, blocks);
    }
  }

  void observe_hidden(int index, Matrix stream, const ForwardTrace* trace) {
    if (trace != nullptr && trace->on_hidden) {
      backend.read(stream, stream.rows - 1, hidden_row);
      trace->on_hidden(index, hidden_row);
    }
    if (trace != nullptr && trace->on_all_hidden) {
      std::vector<float> rows(static_cast<std::size_t>(stream.rows * stream.cols));
      const auto cols = static_cast<std::size_t>(stream.cols);
      for (std::int64_t row = 0; row < stream.rows; ++row) {
        backend.read(stream, row,
                     std::span(rows).subspan(static_cast<std::size_t>(row) * cols, cols));
      }
      trace->on_all_hidden(index, rows);
    }
  }

  // The chunks' feature rows over the embeddings of their placeholders.
  void write_features(std::span<const SequenceChunk> chunks, Matrix stream) {
    std::int64_t first = 0;
    for (const SequenceChunk& chunk : chunks) {
      const auto tokens = static_cast<std::int64_t>(chunk.token_ids.size());
      for (const FeatureRows& features : chunk.features) {
        const auto count = static_cast<std::int64_t>(features.rows.size()) / config.hidden_size;
        QUERN_CHECK(features.offset >= 0 && features.offset + count <= tokens &&
                    count * config.hidden_size == static_cast<std::int64_t>(features.rows.size()));
        backend.write(stream, first + features.offset, features.rows);
      }
      first += tokens;
    }
  }

  void forward(std::span<const SequenceChunk> chunks, kernels::KvCache& cache,
               std::span<float> logits, const ForwardTrace* trace) {
    set_tokens(chunks);
    const auto rows = static_cast<std::int64_t>(token_ids.size());
    const float eps = static_cast<float>(config.rms_norm_eps);
    const Matrix stream = residual.first_rows(rows);
    const Matrix in = x.first_rows(rows);
    const Matrix out = branch.first_rows(rows);
    backend.embed(*embed_tokens, stream);
    write_features(chunks, stream);
    observe_hidden(-1, stream, trace);
    backend.rms_norm(stream, *layers.front().input_norm, eps, in);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      run_layer(static_cast<int>(i), cache, stream, in, out, trace);
      const Weight& next = i + 1 < layers.size() ? *layers[i + 1].input_norm : *final_norm;
      backend.add_rms_norm(out, stream, next, eps, in);
      observe_hidden(static_cast<int>(i), stream, trace);
    }
    check_size(logits, logit_rows.size());
    backend.logits(*lm_head, in, logit_rows, logits);
    if (trace != nullptr && trace->on_all_logits) all_logits(in, *trace);
  }

  // Logits are rank 0's.
  void check_size(std::span<const float> logits, std::size_t rows) const {
    const auto expected =
        sharding.rank == 0 ? rows * static_cast<std::size_t>(config.vocab_size) : std::size_t{0};
    QUERN_CHECK(logits.size() == expected, "{} logits, {} expected", logits.size(), expected);
  }

  // The normed input of the head stays in `x` until the next forward pass.
  void logits_of(std::span<const std::int32_t> tokens, std::span<float> logits) {
    const auto rows = static_cast<std::int32_t>(token_ids.size());
    for (const std::int32_t token : tokens) QUERN_CHECK(token >= 0 && token < rows);
    check_size(logits, tokens.size());
    backend.logits(*lm_head, x.first_rows(rows), tokens, logits);
  }

  void all_logits(Matrix in, const ForwardTrace& trace) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(in.rows));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int32_t>(i);
    std::vector<float> values(
        sharding.rank == 0 ? all.size() * static_cast<std::size_t>(config.vocab_size) : 0);
    backend.logits(*lm_head, in, all, values);
    trace.on_all_logits(values);
  }

  using Weight = kernels::Weight;

  TextConfig config;
  kernels::Backend& backend;
  ModelLimits limits;
  Sharding sharding;
  WeightHandle embed_tokens, final_norm, lm_head;
  std::vector<Layer> layers;
  kernels::SwigluSpec swiglu;
  kernels::MoeSpec moe_spec;
  // Device: the normed input of a branch, its output, the residual stream, attention's operands.
  Matrix x, branch, residual, q, attended, index_q;
  Matrix own_attended, own_branch;  // this rank's columns, where there are several ranks
  kernels::BlockSelection selection;
  kernels::Routing routing;
  // Host: the step.
  std::vector<std::int32_t> token_ids, positions, sequences, block_tables, logit_rows;
  std::vector<float> hidden_row;
};

TextModel::TextModel(const Checkpoint& checkpoint, const ModelConfig& config,
                     kernels::Backend& backend, const ModelLimits& limits, const Sharding& sharding)
    : impl_(std::make_unique<Impl>(checkpoint, config, backend, limits, sharding)) {}

TextModel::~TextModel() = default;

const TextConfig& TextModel::config() const { return impl_->config; }
int TextModel::vocab_size() const { return static_cast<int>(impl_->config.vocab_size); }

kernels::KvCacheSpec kv_cache_spec(const TextConfig& config, const Sharding& sharding,
                                   int num_blocks) {
  kernels::KvCacheSpec spec;
  spec.num_blocks = num_blocks;
  spec.num_kv_heads = local_kv_heads(config, sharding);
  spec.head_dim = static_cast<int>(config.head_dim);
  if (config.sparse_attention_config) {
    spec.index_dim = static_cast<int>(config.sparse_attention_config->sparse_index_dim);
  }
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    spec.layer_has_index.push_back(config.is_sparse_attention_layer(i));
  }
  return spec;
}

kernels::KvCacheSpec TextModel::kv_cache_spec(int num_blocks) const {
  return model::kv_cache_spec(impl_->config, impl_->sharding, num_blocks);
}

void TextModel::forward(std::span<const SequenceChunk> chunks, kernels::KvCache& cache,
                        std::span<float> logits, const ForwardTrace* trace) {
  impl_->forward(chunks, cache, logits, trace);
}

void TextModel::logits(std::span<const std::int32_t> tokens, std::span<float> logits) {
  impl_->logits_of(tokens, logits);
}

}  // namespace quern::model
