// See sharding.h. The layout is vLLM's, but every matrix is split by output rows, o_proj and the
// down projections too.
#include "quern/model/sharding.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "quern/base/error.h"
#include "quern/numerics/mxfp4.h"

namespace quern::model {
namespace {

constexpr int kMaxSize = 128;  // vLLM's

enum class Split : std::uint8_t {
  kReplicated,
  kRows,        // equal runs of rows
  kKvHeads,     // by KV head; a head is on several ranks where they outnumber the heads
  kExpertRows,  // a routed expert's: equal runs of rows, or whole under expert parallelism
  kVisionRows,  // equal runs of rows, or whole where pictures are distributed
};

struct Rule {
  std::string_view part;  // of the tensor's name
  Split split;
};

// The first that is part of the name counts.
constexpr Rule kRules[] = {
    {"vision_tower.vision_model.embeddings.", Split::kReplicated},
    {"vision_tower.vision_model.pre_layrnorm.", Split::kReplicated},
    {".layer_norm1.", Split::kReplicated},
    {".layer_norm2.", Split::kReplicated},
    {"vision_tower.", Split::kVisionRows},
    {"multi_modal_projector.", Split::kVisionRows},
    {"patch_merge_mlp.", Split::kVisionRows},
    {".embed_tokens.", Split::kRows},
    {"lm_head.", Split::kRows},
    {".self_attn.q_proj.", Split::kRows},
    {".self_attn.k_proj.", Split::kKvHeads},
    {".self_attn.v_proj.", Split::kKvHeads},
    {".self_attn.index_q_proj.", Split::kKvHeads},
    {".self_attn.o_proj.", Split::kRows},
    {".mlp.", Split::kRows},
    {".shared_experts.", Split::kRows},
    {".experts.", Split::kExpertRows},
};

Split split_of(std::string_view tensor) {
  const auto* const found = std::ranges::find_if(
      kRules, [&](const Rule& rule) { return tensor.find(rule.part) != std::string_view::npos; });
  return found == std::end(kRules) ? Split::kReplicated : found->split;
}

std::int64_t expert_of(std::string_view tensor) {
  constexpr std::string_view kPart = ".experts.";
  const std::string_view number = tensor.substr(tensor.find(kPart) + kPart.size());
  std::int64_t expert = -1;
  std::from_chars(number.data(), number.data() + number.size(), expert);
  QUERN_CHECK(expert >= 0, "{}", tensor);
  return expert;
}

RowRange equal_part(std::int64_t rows, std::int64_t index, std::int64_t parts) {
  QUERN_CHECK(rows % parts == 0, "{} rows, {} parts", rows, parts);
  return {index * (rows / parts), rows / parts};
}

// A size that has to be cut in `size` parts, in units of `unit`.
std::optional<std::string> uneven(const char* name, std::int64_t value, int size,
                                  std::int64_t unit = 1) {
  if (value % (size * unit) == 0) return std::nullopt;
  if (unit == 1) return fmt::format("{} {} is not a multiple of {}", name, value, size);
  return fmt::format("{} {} is not a multiple of {} x {} (whole MXFP4 blocks)", name, value, size,
                     unit);
}

std::string text_obstacle(const ModelConfig& model, const Sharding& sharding) {
  const TextConfig& config = model.text_config;
  const int size = sharding.size;
  const std::int64_t block = model.quantization_config ? static_cast<std::int64_t>(kMxBlock) : 1;
  const std::int64_t kv_heads = config.num_key_value_heads;
  bool dense = false;
  bool moe = false;
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
    (config.is_moe_layer(i) ? moe : dense) = true;
  for (const auto& found :
       {uneven("num_attention_heads", config.num_attention_heads, size),
        uneven("hidden_size", config.hidden_size, size),
        uneven("vocab_size", config.vocab_size, size),
        dense ? uneven("dense_intermediate_size", config.dense_intermediate_size, size, block)
              : std::nullopt,
        moe && config.n_shared_experts > 0
            ? uneven("shared_intermediate_size", config.shared_intermediate_size, size, block)
            : std::nullopt,
        moe && !sharding.expert_parallel
            ? uneven("intermediate_size", config.intermediate_size, size, block)
            : std::nullopt,
        moe && sharding.expert_parallel
            ? uneven("num_local_experts", config.num_local_experts, size)
            : std::nullopt}) {
    if (found) return *found;
  }
  if (kv_heads % size != 0 && size % kv_heads != 0) {
    return fmt::format("num_key_value_heads {} is neither a multiple nor a divisor of {}", kv_heads,
                       size);
  }
  if (config.sparse_attention_config && size > 1 &&
      config.sparse_attention_config->sparse_num_index_heads != kv_heads) {
    return fmt::format("sparse_num_index_heads {} differs from num_key_value_heads {}",
                       config.sparse_attention_config->sparse_num_index_heads, kv_heads);
  }
  return "";
}

std::string vision_obstacle(const ModelConfig& model, int size) {
  const VisionConfig& config = *model.vision_config;
  for (const auto& found :
       {uneven("vision_config: num_attention_heads", config.num_attention_heads, size),
        uneven("vision_config: hidden_size", config.hidden_size, size),
        uneven("vision_config: intermediate_size", config.intermediate_size, size),
        uneven("projector_hidden_size", model.projector_hidden_size, size),
        uneven("vision_config: projection_dim", config.projection_dim, size)}) {
    if (found) return *found + " (--mm-encoder-tp-mode data does not split the tower)";
  }
  return "";
}

}  // namespace

std::string sharding_obstacle(const ModelConfig& config, const Sharding& sharding, bool vision) {
  QUERN_CHECK(sharding.size > 0);
  if (sharding.size > kMaxSize) return fmt::format("at most {} ranks are possible", kMaxSize);
  std::string found = text_obstacle(config, sharding);
  if (found.empty() && vision && config.vision_config && !sharding.vision_data_parallel)
    found = vision_obstacle(config, sharding.size);
  return found;
}

void check_sharding(const ModelConfig& config, const Sharding& sharding, bool vision) {
  const std::string obstacle = sharding_obstacle(config, sharding, vision);
  if (obstacle.empty()) return;
  std::string works;
  for (int size = 1; size <= kMaxSize; ++size) {
    Sharding other = sharding;
    other.size = size;
    if (!sharding_obstacle(config, other, vision).empty()) continue;
    works += works.empty() ? "" : ", ";
    works += std::to_string(size);
  }
  throw Error("tensor parallel size {}: {}; sizes that work: {}", sharding.size, obstacle, works);
}

RowRange rows_of(std::string_view tensor, std::int64_t rows, const ModelConfig& config,
                 const Sharding& sharding) {
  if (sharding.size == 1) return {0, rows};
  switch (split_of(tensor)) {
    case Split::kReplicated:
      return {0, rows};
    case Split::kRows:
      return equal_part(rows, sharding.rank, sharding.size);
    case Split::kKvHeads: {
      const std::int64_t heads = config.text_config.num_key_value_heads;
      const std::int64_t parts = std::min<std::int64_t>(heads, sharding.size);
      return equal_part(rows, sharding.rank * parts / sharding.size, parts);
    }
    case Split::kExpertRows: {
      if (!sharding.expert_parallel) return equal_part(rows, sharding.rank, sharding.size);
      const std::int64_t per_rank = config.text_config.num_local_experts / sharding.size;
      const bool mine = expert_of(tensor) / per_rank == sharding.rank;
      return {0, mine ? rows : 0};
    }
    case Split::kVisionRows:
      if (sharding.vision_data_parallel) return {0, rows};
      return equal_part(rows, sharding.rank, sharding.size);
  }
  QUERN_CHECK(false);
  return {};
}

int local_heads(const TextConfig& config, const Sharding& sharding) {
  return static_cast<int>(config.num_attention_heads) / sharding.size;
}

int local_kv_heads(const TextConfig& config, const Sharding& sharding) {
  return std::max(1, static_cast<int>(config.num_key_value_heads) / sharding.size);
}

TensorView slice_rows(const TensorView& tensor, const RowRange& rows) {
  TensorView slice = tensor;
  QUERN_CHECK(!slice.shape.empty() && rows.begin + rows.count <= slice.shape[0]);
  const std::size_t all = tensor.bytes();
  const auto row_bytes = tensor.shape[0] == 0 ? 0 : all / static_cast<std::size_t>(tensor.shape[0]);
  slice.shape[0] = rows.count;
  slice.data += static_cast<std::size_t>(rows.begin) * row_bytes;
  return slice;
}

}  // namespace quern::model
