// See sharding_cost.h.
#include "quern/model/sharding_cost.h"

#include <algorithm>
#include <string>
#include <vector>

#include "quern/base/error.h"

namespace quern::model {
namespace {

constexpr std::int64_t kBf16Bytes = 2;

// Whether the module's inputs travel as MXFP4.
bool is_packed(const ModelConfig& config, const std::string& module) {
  if (!config.quantization_config) return false;
  const auto scheme = config.quantization_config->scheme_for(module);
  return scheme && scheme->activation == MxScheme::Activation::kDynamicMxfp4;
}

// Bytes of `width` values on all ranks together.
std::int64_t inner_bytes(std::int64_t width, bool packed) {
  return packed ? width / 2 + width / 32 : kBf16Bytes * width;
}

}  // namespace

PartBytes& PartBytes::operator+=(const PartBytes& other) {
  whole += other.whole;
  rank += other.rank;
  all_ranks += other.all_ranks;
  return *this;
}

std::array<PartBytes, kNumModelParts> part_bytes(const Checkpoint& checkpoint,
                                                 const ModelConfig& config,
                                                 const Sharding& sharding) {
  std::array<PartBytes, kNumModelParts> parts{};
  std::vector<std::array<std::uint64_t, kNumModelParts>> of_rank(
      static_cast<std::size_t>(sharding.size));
  for (const Checkpoint::Tensor& tensor : checkpoint.tensors()) {
    const auto part = static_cast<std::size_t>(part_of(tensor.name));
    if (static_cast<ModelPart>(part) == ModelPart::kOther) continue;
    const std::int64_t rows = tensor.view.shape.empty() ? 1 : tensor.view.shape[0];
    const std::uint64_t bytes = tensor.view.bytes();
    parts[part].whole += bytes;
    for (int rank = 0; rank < sharding.size; ++rank) {
      Sharding place = sharding;
      place.rank = rank;
      const std::int64_t count = rows_of(tensor.name, rows, config, place).count;
      of_rank[static_cast<std::size_t>(rank)][part] +=
          rows == 0 ? 0
                    : bytes / static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(count);
    }
  }
  for (const auto& rank : of_rank) {
    for (std::size_t part = 0; part < kNumModelParts; ++part) {
      parts[part].rank = std::max(parts[part].rank, rank[part]);
      parts[part].all_ranks += rank[part];
    }
  }
  return parts;
}

std::int64_t kv_bytes_per_token(const TextConfig& config, const Sharding& sharding) {
  const kernels::KvCacheSpec spec = kv_cache_spec(config, sharding, 1);
  std::int64_t values = 0;
  for (const bool has_index : spec.layer_has_index) {
    values += std::int64_t{2} * spec.num_kv_heads * spec.head_dim;
    if (has_index) values += spec.index_dim;
  }
  return kBf16Bytes * values;
}

TokenTraffic token_traffic(const ModelConfig& config, const Sharding& sharding) {
  if (sharding.size == 1) return {};
  const TextConfig& text = config.text_config;
  const std::int64_t hidden = text.hidden_size;
  const std::int64_t ranks = sharding.size;
  TokenTraffic traffic;
  const auto send = [&](std::int64_t bytes) {
    ++traffic.operations;
    traffic.sent_bytes += bytes;
  };
  send(kBf16Bytes * hidden);  // the embedding, from the rank that has the token
  for (std::int64_t i = 0; i < text.num_hidden_layers; ++i) {
    const std::string prefix = fmt::format("language_model.model.layers.{}.", i);
    send(kBf16Bytes * text.num_attention_heads * text.head_dim);
    send(kBf16Bytes * hidden);  // o_proj
    if (!text.is_moe_layer(i)) {
      send(inner_bytes(text.dense_intermediate_size, is_packed(config, prefix + "mlp.down_proj")));
    } else {
      const std::string moe = prefix + "block_sparse_moe.";
      const bool packed = is_packed(config, moe + "experts.0.w2");
      const bool shared_packed = is_packed(config, moe + "shared_experts.down_proj");
      std::int64_t routed = 0;
      std::int64_t shared = 0;
      if (!sharding.expert_parallel)
        routed = text.num_experts_per_tok * inner_bytes(text.intermediate_size, packed);
      if (text.n_shared_experts > 0)
        shared = inner_bytes(text.shared_intermediate_size, shared_packed);
      // One message where both have the same form.
      const bool together =
          packed == shared_packed && text.intermediate_size == text.shared_intermediate_size;
      if (routed > 0 && shared > 0 && together) {
        send(routed + shared);
      } else {
        if (routed > 0) send(routed);
        if (shared > 0) send(shared);
      }
      // A chosen expert's row, but for the columns of the rank that has it.
      if (sharding.expert_parallel)
        send(text.num_experts_per_tok * kBf16Bytes * (hidden - hidden / ranks));
    }
    send(kBf16Bytes * hidden);  // the layer's output
  }
  send(kBf16Bytes * (text.vocab_size - text.vocab_size / ranks));  // logits, to rank 0
  return traffic;
}

}  // namespace quern::model
