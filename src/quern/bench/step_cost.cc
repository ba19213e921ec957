// See step_cost.h.
#include "quern/bench/step_cost.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "quern/base/error.h"
#include "quern/checkpoint/inspect.h"

namespace quern::bench {
namespace {

constexpr double kBf16Bytes = 2;  // of a value in the KV cache

constexpr std::array<std::string_view, kNumOperations> kOperationNames = {
    "embed",     "norms", "q, k, v", "select blocks", "attend", "output projection",
    "dense MLP", "route", "experts", "logits"};

// Whether the token at `position` sees more blocks than it may keep; else all are taken unseen.
bool must_select(std::int64_t position, std::int64_t topk) {
  return position / kernels::kBlockTokens + 1 > topk;
}

// Keys that the token at `position` attends to on a layer that keeps `topk` blocks: all of them, or
// topk blocks of which the last, its own, is not full.
double attended_keys(std::int64_t position, std::int64_t topk) {
  if (!must_select(position, topk)) return static_cast<double>(position + 1);
  return static_cast<double>((topk - 1) * kernels::kBlockTokens + position % kernels::kBlockTokens +
                             1);
}

}  // namespace

std::string_view operation_name(Operation operation) {
  return kOperationNames[static_cast<std::size_t>(operation)];
}

Cost& Cost::operator+=(const Cost& other) {
  bytes += other.bytes;
  int8_multiply_adds += other.int8_multiply_adds;
  float_multiply_adds += other.float_multiply_adds;
  return *this;
}

double bound_seconds(const Cost& cost, const MachineRates& rates) {
  const double reading = cost.bytes / rates.read_bytes_per_second;
  const double computing = cost.int8_multiply_adds / rates.int8_multiply_adds_per_second +
                           cost.float_multiply_adds / rates.float_multiply_adds_per_second;
  return std::max(reading, computing);
}

Cost StepCost::total() const {
  Cost sum;
  for (const Cost& cost : operations) sum += cost;
  return sum;
}

StepCost& StepCost::operator+=(const StepCost& other) {
  for (std::size_t i = 0; i < operations.size(); ++i) operations[i] += other.operations[i];
  return *this;
}

double expected_experts(std::int64_t experts, std::int64_t chosen, std::int64_t tokens) {
  const double share = static_cast<double>(chosen) / static_cast<double>(experts);
  return static_cast<double>(experts) * (1 - std::pow(1 - share, static_cast<double>(tokens)));
}

void ModelCost::Weights::add(const Weights& other) {
  QUERN_CHECK(elements == 0 || int8 == other.int8);
  bytes += other.bytes;
  elements += other.elements;
  int8 = other.int8;
}

ModelCost::Weights ModelCost::module(const std::string& name) const {
  const auto scheme =
      config_.quantization_config ? config_.quantization_config->scheme_for(name) : std::nullopt;
  const TensorView& weight = checkpoint_.get(name + ".weight");
  Weights weights;
  weights.bytes = static_cast<double>(weight.bytes());
  weights.elements = static_cast<double>(weight.size());
  if (!scheme) return weights;
  weights.bytes += static_cast<double>(checkpoint_.get(name + ".weight_scale").bytes());
  weights.elements *= 2;  // two codes a byte
  weights.int8 = scheme->activation == MxScheme::Activation::kDynamicMxfp4 &&
                 moe_backend_ == kernels::MoeBackend::kNative;
  return weights;
}

ModelCost::Weights ModelCost::mlp(const std::string& prefix, const char* gate, const char* up,
                                  const char* down) const {
  Weights weights = module(prefix + gate);
  weights.add(module(prefix + up));
  weights.add(module(prefix + down));
  return weights;
}

ModelCost::Layer ModelCost::layer(std::int64_t index) const {
  const std::string prefix = fmt::format("language_model.model.layers.{}.", index);
  const std::string attention = prefix + "self_attn.";
  const TextConfig& text = config_.text_config;
  Layer layer;
  layer.is_moe = text.is_moe_layer(index);
  layer.is_sparse = text.is_sparse_attention_layer(index);
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) layer.qkv.add(module(attention + name));
  if (layer.is_sparse) {
    for (const char* name : {"index_q_proj", "index_k_proj"})
      layer.qkv.add(module(attention + name));
  }
  layer.output = module(attention + "o_proj");
  if (!layer.is_moe) {
    layer.mlp = mlp(prefix + "mlp.", "gate_proj", "up_proj", "down_proj");
    return layer;
  }
  const std::string moe = prefix + "block_sparse_moe.";
  layer.gate = module(moe + "gate");
  layer.expert = mlp(moe + "experts.0.", "w1", "w3", "w2");
  if (text.n_shared_experts > 0)
    layer.shared = mlp(moe + "shared_experts.", "gate_proj", "up_proj", "down_proj");
  return layer;
}

ModelCost::ModelCost(const Checkpoint& checkpoint, const ModelConfig& config,
                     kernels::MoeBackend moe_backend)
    : checkpoint_(checkpoint), config_(config), moe_backend_(moe_backend) {
  const TextConfig& text = config.text_config;
  for (std::int64_t i = 0; i < text.num_hidden_layers; ++i) layers_.push_back(layer(i));
  head_ = module("language_model.lm_head");
  embedding_row_bytes_ =
      static_cast<double>(checkpoint.get("language_model.model.embed_tokens.weight").bytes()) /
      static_cast<double>(text.vocab_size);
  norm_bytes_ = static_cast<double>(inspect(checkpoint).part(ModelPart::kNorms).bytes);
}

void ModelCost::add_products(const Weights& weights, double rows, Cost& cost) {
  (weights.int8 ? cost.int8_multiply_adds : cost.float_multiply_adds) += weights.elements * rows;
}

void ModelCost::add_attention(const Layer& layer, std::span<const StepSequence> sequences,
                              StepCost& cost) const {
  const TextConfig& text = config_.text_config;
  const std::int64_t topk =
      layer.is_sparse ? text.sparse_attention_config->sparse_topk_blocks : INT32_MAX;
  const auto heads = static_cast<double>(text.num_attention_heads * text.head_dim);
  const auto kv_heads = static_cast<double>(text.num_key_value_heads * text.head_dim);
  const auto index_dim =
      layer.is_sparse ? static_cast<double>(text.sparse_attention_config->sparse_index_dim) : 0;
  const auto index_heads =
      layer.is_sparse ? static_cast<double>(text.sparse_attention_config->sparse_num_index_heads)
                      : 0;
  for (const StepSequence& sequence : sequences) {
    const std::int64_t end = sequence.start + sequence.tokens;
    double keys = 0, index_keys = 0;
    for (std::int64_t position = sequence.start; position < end; ++position) {
      keys += attended_keys(position, topk);
      if (must_select(position, topk)) index_keys += static_cast<double>(position + 1);
    }
    // Read once for all tokens of the sequence: at least what the last one needs.
    Cost& attend = cost.of(Operation::kAttend);
    attend.bytes += 2 * kBf16Bytes * kv_heads * attended_keys(end - 1, topk);
    attend.float_multiply_adds += 2 * heads * keys;
    Cost& select = cost.of(Operation::kSelectBlocks);
    if (must_select(end - 1, topk))
      select.bytes += kBf16Bytes * index_dim * static_cast<double>(end);
    select.float_multiply_adds += index_heads * index_dim * index_keys;
  }
}

StepCost ModelCost::step(std::span<const StepSequence> sequences,
                         std::span<const std::int64_t> experts) const {
  const TextConfig& text = config_.text_config;
  std::int64_t num_tokens = 0;
  double logits = 0;
  for (const StepSequence& sequence : sequences) {
    num_tokens += sequence.tokens;
    logits += sequence.wants_logits ? 1 : 0;
  }
  const auto tokens = static_cast<double>(num_tokens);
  StepCost cost;
  const auto multiply = [&](Operation operation, const Weights& weights, double rows) {
    cost.of(operation).bytes += weights.bytes;
    add_products(weights, rows, cost.of(operation));
  };
  cost.of(Operation::kEmbed).bytes = tokens * embedding_row_bytes_;
  cost.of(Operation::kNorm).bytes = norm_bytes_;
  std::size_t moe_layer = 0;
  for (const Layer& layer : layers_) {
    multiply(Operation::kProjectQkv, layer.qkv, tokens);
    add_attention(layer, sequences, cost);
    multiply(Operation::kOutputProjection, layer.output, tokens);
    if (!layer.is_moe) {
      multiply(Operation::kMlp, layer.mlp, tokens);
      continue;
    }
    multiply(Operation::kRoute, layer.gate, tokens);
    const double used = experts.empty() ? expected_experts(text.num_local_experts,
                                                           text.num_experts_per_tok, num_tokens)
                                        : static_cast<double>(experts[moe_layer]);
    ++moe_layer;
    Cost& moe = cost.of(Operation::kMoe);
    moe.bytes += used * layer.expert.bytes;
    add_products(layer.expert, tokens * static_cast<double>(text.num_experts_per_tok), moe);
    multiply(Operation::kMoe, layer.shared, tokens);
  }
  if (logits > 0) multiply(Operation::kLogits, head_, logits);
  return cost;
}

}  // namespace quern::bench
