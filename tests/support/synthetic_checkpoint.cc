// The arithmetic and the writer of the synthetic checkpoint; see synthetic_checkpoint.h.
#include "tests/support/synthetic_checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <unordered_map>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/base/thread_team.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/numerics/bf16.h"

namespace quern::test {
namespace {

// FNV-1a, 64 bits (draft-eastlake-fnv).
std::uint64_t fnv1a64(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// The output function of SplitMix64 (Steele, Lea, Flood 2014) for the state x.
std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Uniform in +-scale has variance scale^2 / 3: a linear layer keeps the variance of its input
// times gain^2.
float linear_scale(std::int64_t fan_in, double gain) {
  return static_cast<float>(gain * std::sqrt(3.0 / static_cast<double>(fan_in)));
}

// Gains that keep tests sharp; tools/model_synthetic.py says why.
constexpr double kSublayerGain = 0.15;
constexpr double kLogitGain = 4.0;
constexpr double kRouterGain = 4.0;
constexpr float kNormScale = 0.1f;
constexpr float kQueryKeyNormOffset = 0.25f;

class TensorList {
 public:
  void linear(std::string name, std::int64_t out, std::int64_t in, double gain = 1.0,
              DType dtype = DType::kBF16) {
    list_.push_back({std::move(name), {out, in}, linear_scale(in, gain), 0.0f, dtype});
  }
  void vector(std::string name, std::int64_t n, float offset = 0.0f, DType dtype = DType::kBF16) {
    list_.push_back({std::move(name), {n}, kNormScale, offset, dtype});
  }
  void embedding(std::string name, std::int64_t rows, std::int64_t columns) {
    list_.push_back({std::move(name), {rows, columns}, linear_scale(1, 1.0)});
  }
  void tensor(SyntheticTensor tensor) { list_.push_back(std::move(tensor)); }
  std::vector<SyntheticTensor> take() { return std::move(list_); }

 private:
  std::vector<SyntheticTensor> list_;
};

void add_moe(TensorList& list, const SyntheticConfig& c, const std::string& moe) {
  list.linear(moe + "gate.weight", c.num_local_experts, c.hidden_size, kRouterGain, DType::kF32);
  list.vector(moe + "e_score_correction_bias", c.num_local_experts, 0.0f, DType::kF32);
  const auto add_mlp = [&](const std::string& prefix, const char* gate, const char* up,
                           const char* down) {
    list.linear(prefix + gate + ".weight", c.intermediate_size, c.hidden_size);
    list.linear(prefix + up + ".weight", c.intermediate_size, c.hidden_size);
    list.linear(prefix + down + ".weight", c.hidden_size, c.intermediate_size, kSublayerGain);
  };
  for (std::int64_t e = 0; e < c.num_local_experts; ++e) {
    add_mlp(fmt::format("{}experts.{}.", moe, e), "w1", "w3", "w2");
  }
  add_mlp(moe + "shared_experts.", "gate_proj", "up_proj", "down_proj");
}

void add_layer(TensorList& list, const SyntheticConfig& c, std::int64_t layer) {
  const std::string p = fmt::format("language_model.model.layers.{}.", layer);
  const std::string attention = p + "self_attn.";
  const std::int64_t h = c.hidden_size, d = c.head_dim;
  list.vector(p + "input_layernorm.weight", h);
  list.vector(p + "post_attention_layernorm.weight", h);
  list.linear(attention + "q_proj.weight", c.num_attention_heads * d, h);
  list.linear(attention + "k_proj.weight", c.num_key_value_heads * d, h);
  list.linear(attention + "v_proj.weight", c.num_key_value_heads * d, h);
  list.linear(attention + "o_proj.weight", h, c.num_attention_heads * d, kSublayerGain);
  list.vector(attention + "q_norm.weight", d, kQueryKeyNormOffset);
  list.vector(attention + "k_norm.weight", d, kQueryKeyNormOffset);
  if (layer < c.num_dense_layers) {
    list.linear(p + "mlp.gate_proj.weight", c.dense_intermediate_size, h);
    list.linear(p + "mlp.up_proj.weight", c.dense_intermediate_size, h);
    list.linear(p + "mlp.down_proj.weight", h, c.dense_intermediate_size, kSublayerGain);
    return;
  }
  list.linear(attention + "index_q_proj.weight", c.num_key_value_heads * c.sparse_index_dim, h);
  list.linear(attention + "index_k_proj.weight", c.sparse_index_dim, h);
  list.vector(attention + "index_q_norm.weight", c.sparse_index_dim);
  list.vector(attention + "index_k_norm.weight", c.sparse_index_dim);
  add_moe(list, c, p + "block_sparse_moe.");
}

// Sizes of the release's vision tower.
constexpr std::int64_t kVisionWidth = 1280;
constexpr std::int64_t kVisionInner = 5120;
constexpr std::int64_t kPatchValues = 3 * 2 * 14 * 14;
// Attention that is neither flat nor one patch alone: scores with a deviation of about 2.
constexpr double kVisionQueryKeyGain = 1.4;

void add_affine(TensorList& list, const std::string& name, std::int64_t out, std::int64_t in,
                double gain = 1.0) {
  list.linear(name + ".weight", out, in, gain);
  list.vector(name + ".bias", out);
}

void add_vision(TensorList& list, const SyntheticConfig& c) {
  const std::string root = "vision_tower.vision_model.";
  const auto add_norm = [&](const std::string& name) {
    list.vector(name + ".weight", kVisionWidth, 1.0f);
    list.vector(name + ".bias", kVisionWidth);
  };
  list.tensor({root + "embeddings.patch_embedding.weight",
               {kVisionWidth, 3, 2, 14, 14},
               linear_scale(kPatchValues, 1.0),
               0.0f,
               DType::kF32});
  add_norm(root + "pre_layrnorm");
  for (std::int64_t layer = 0; layer < c.vision_layers; ++layer) {
    const std::string p = fmt::format("{}encoder.layers.{}.", root, layer);
    add_norm(p + "layer_norm1");
    add_norm(p + "layer_norm2");
    for (const char* name : {"q_proj", "k_proj"})
      add_affine(list, p + "self_attn." + name, kVisionWidth, kVisionWidth, kVisionQueryKeyGain);
    for (const char* name : {"v_proj", "out_proj"})
      add_affine(list, p + "self_attn." + name, kVisionWidth, kVisionWidth);
    add_affine(list, p + "mlp.fc1", kVisionInner, kVisionWidth);
    add_affine(list, p + "mlp.fc2", kVisionWidth, kVisionInner);
  }
  add_affine(list, "multi_modal_projector.linear_1", c.hidden_size, kVisionWidth);
  add_affine(list, "multi_modal_projector.linear_2", c.hidden_size, c.hidden_size);
  add_affine(list, "patch_merge_mlp.linear_1", c.hidden_size, 4 * c.hidden_size);
  add_affine(list, "patch_merge_mlp.linear_2", c.hidden_size, c.hidden_size);
}

Json text_config(const SyntheticConfig& c) {
  Json freq = Json::array();
  for (std::int64_t layer = 0; layer < c.num_hidden_layers; ++layer)
    freq.push_back(layer >= c.num_dense_layers ? 1 : 0);
  return {
      {"architectures", Json::array({"MiniMaxM3SparseForCausalLM"})},
      {"hidden_size", c.hidden_size},
      {"intermediate_size", c.intermediate_size},
      {"dense_intermediate_size", c.dense_intermediate_size},
      {"num_hidden_layers", c.num_hidden_layers},
      {"num_attention_heads", c.num_attention_heads},
      {"num_key_value_heads", c.num_key_value_heads},
      {"head_dim", c.head_dim},
      {"vocab_size", c.vocab_size},
      {"max_position_embeddings", c.max_position_embeddings},
      {"rms_norm_eps", 1e-06},
      {"use_gemma_norm", true},
      {"attention_output_gate", false},
      {"rope_theta", 5000000},
      {"rotary_dim", c.rotary_dim},
      {"partial_rotary_factor", 0.5},
      {"num_local_experts", c.num_local_experts},
      {"num_experts_per_tok", c.num_experts_per_tok},
      {"n_shared_experts", 1},
      {"shared_intermediate_size", c.intermediate_size},
      {"scoring_func", "sigmoid"},
      {"use_routing_bias", true},
      {"routed_scaling_factor", 2.0},
      {"moe_layer_freq", freq},
      {"hidden_act", "swigluoai"},
      {"swiglu_alpha", 1.702},
      {"swiglu_limit", 7.0},
      {"use_qk_norm", true},
      {"qk_norm_type", "per_head"},
      {"tie_word_embeddings", false},
      {"num_mtp_modules", 7},
      {"num_nextn_predict_layers", 1},
      {"sparse_attention_config",
       {{"use_sparse_attention", true},
        {"sparse_index_dim", c.sparse_index_dim},
        {"sparse_num_index_heads", c.num_key_value_heads},
        {"sparse_topk_blocks", c.sparse_topk_blocks},
        {"sparse_block_size", 128},
        {"sparse_disable_index_value", freq},
        {"sparse_score_type", "max"},
        {"sparse_init_block", 0},
        {"sparse_local_block", 1},
        {"sparse_attention_freq", freq}}},
  };
}

// The release's vision tower by its sizes.
Json vision_config(const SyntheticConfig& c, const Json& compression) {
  return {
      {"hidden_size", kVisionWidth},
      {"num_attention_heads", 16},
      {"num_hidden_layers", c.vision_layers > 0 ? c.vision_layers : 32},
      {"intermediate_size", kVisionInner},
      {"patch_size", 14},
      {"image_size", 2016},
      {"projection_dim", c.hidden_size},
      {"position_embedding_type", "rope"},
      {"rope_mode", "3d"},
      {"rope_theta", 10000.0},
      {"attention_dropout", 0.0},
      {"hidden_act", "gelu"},
      {"initializer_factor", 1.0},
      {"initializer_range", 0.02},
      {"layer_norm_eps", 1e-05},
      {"model_type", "clip_vision_model"},
      {"num_channels", 3},
      {"vocab_size", 32000},
      {"vision_segment_max_frames", 4},
      {"img_token_compression_config", compression},
  };
}

// The release holds a Python list as a string: "[(336, 336), (336, 672), ...]".
std::string grid_pinpoints() {
  std::string text;
  for (int a = 336; a <= 2016; a += 336)
    for (int b = 336; b <= 2016; b += 336)
      text += fmt::format("{}({}, {})", text.empty() ? "" : ", ", a, b);
  return "[" + text + "]";
}

// Streams one tensor through pieces of `buffer`, each filled by all threads.
void write_tensor(SafetensorsWriter& writer, const SyntheticTensor& tensor, std::uint64_t seed,
                  ThreadTeam& team, std::vector<std::byte>& buffer) {
  const auto size = static_cast<std::int64_t>(dtype_bytes(tensor.dtype));
  const std::int64_t total = num_elements(tensor.shape);
  const std::int64_t piece = static_cast<std::int64_t>(buffer.size()) / size;
  constexpr std::int64_t kGrain = 1 << 16;
  for (std::int64_t begin = 0; begin < total; begin += piece) {
    const std::int64_t count = std::min(piece, total - begin);
    const std::span<std::byte> out(buffer.data(), static_cast<std::size_t>(count * size));
    team.parallel_for(count, kGrain, [&](std::int64_t from, std::int64_t to, int) {
      fill_synthetic(tensor, seed, begin + from,
                     out.subspan(static_cast<std::size_t>(from * size),
                                 static_cast<std::size_t>((to - from) * size)));
    });
    writer.write(out);
  }
}

}  // namespace

std::vector<SyntheticTensor> synthetic_tensors(const SyntheticConfig& config) {
  TensorList list;
  const std::string root = "language_model.";
  list.embedding(root + "model.embed_tokens.weight", config.vocab_size, config.hidden_size);
  list.linear(root + "lm_head.weight", config.vocab_size, config.hidden_size, kLogitGain);
  list.vector(root + "model.norm.weight", config.hidden_size);
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    add_layer(list, config, layer);
  if (config.vision_layers > 0) add_vision(list, config);
  return list.take();
}

void fill_synthetic(const SyntheticTensor& tensor, std::uint64_t seed, std::int64_t begin,
                    std::span<std::byte> out) {
  const std::uint64_t base =
      splitmix64(fnv1a64(tensor.name) ^ seed) + static_cast<std::uint64_t>(begin);
  // A product of two 24-bit numbers is exact in double: fused or not, the sum rounds once.
  const double scale = static_cast<double>(tensor.scale) * 0x1p-24;
  const double offset = static_cast<double>(tensor.offset);
  const std::size_t size = dtype_bytes(tensor.dtype);
  for (std::size_t i = 0; i * size < out.size(); ++i) {
    const auto random = static_cast<std::int64_t>(splitmix64(base + i) >> 40);
    const auto odd = static_cast<double>(2 * random + 1 - (std::int64_t{1} << 24));
    const auto value = static_cast<float>(odd * scale + offset);
    if (tensor.dtype == DType::kBF16) {
      const BF16 bf16 = float_to_bf16(value);
      std::memcpy(out.data() + i * size, &bf16, size);
    } else {
      std::memcpy(out.data() + i * size, &value, size);
    }
  }
}

std::string synthetic_config_json(const SyntheticConfig& config) {
  const Json compression = {{"image_token_compression_method", "patch_merge"},
                            {"spatial_merge_size", 2},
                            {"temporal_patch_size", 2}};
  const Json json = {
      {"architectures", Json::array({"MiniMaxM3SparseForConditionalGeneration"})},
      {"auto_map", {{"AutoConfig", "configuration_minimax_m3_vl.MiniMaxM3VLConfig"}}},
      {"model_type", "minimax_m3_vl"},
      {"image_grid_pinpoints", grid_pinpoints()},
      {"image_seq_length", 576},
      {"image_token_index", config.vocab_size - 2},
      {"video_token_index", config.vocab_size - 1},
      {"img_token_compression_config", compression},
      {"multimodal_projector_bias", true},
      {"num_reward_heads", 0},
      {"process_image_mode", "dynamic_res"},
      {"projector_hidden_act", "gelu"},
      {"projector_hidden_size", config.hidden_size},
      {"vision_feature_layer", -1},
      {"vision_feature_select_strategy", "full"},
      {"torch_dtype", "bfloat16"},
      {"transformers_version", "4.52.4"},
      {"text_config", text_config(config)},
      {"vision_config", vision_config(config, compression)},
  };
  return json.dump(2) + "\n";
}

void write_synthetic_checkpoint(const std::filesystem::path& directory,
                                const SyntheticConfig& config) {
  std::filesystem::create_directories(directory);
  const std::string shard = "model-00001-of-00001.safetensors";
  const std::vector<SyntheticTensor> tensors = synthetic_tensors(config);
  std::unordered_map<std::string_view, const SyntheticTensor*> by_name;
  std::vector<TensorSpec> specs;
  std::uint64_t total_bytes = 0;
  Json weight_map = Json::object();
  for (const SyntheticTensor& tensor : tensors) {
    by_name[tensor.name] = &tensor;
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    total_bytes +=
        static_cast<std::uint64_t>(num_elements(tensor.shape)) * dtype_bytes(tensor.dtype);
    weight_map[tensor.name] = shard;
  }
  SafetensorsWriter writer(directory / shard, plan_safetensors(std::move(specs)));
  ThreadTeam team;
  std::vector<std::byte> buffer(std::size_t{16} << 20);
  for (const TensorInfo& info : writer.layout().tensors)
    write_tensor(writer, *by_name.at(info.name), config.seed, team, buffer);
  writer.commit();
  const Json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  write_file(directory / "model.safetensors.index.json", index.dump(2) + "\n");
  write_file(directory / "config.json", synthetic_config_json(config));
}

std::vector<std::int32_t> synthetic_prompt(std::int64_t count, std::int64_t num_ids,
                                           std::uint64_t seed) {
  const auto ids = static_cast<std::uint64_t>(num_ids);
  std::vector<std::int32_t> prompt;
  for (std::uint64_t p = 0; p < static_cast<std::uint64_t>(count); ++p) {
    const std::uint64_t start = splitmix64(seed ^ (p / 96 << 32)) % ids;
    const std::uint64_t step = splitmix64((seed << 48) ^ p) % 48;
    prompt.push_back(static_cast<std::int32_t>((start + step) % ids));
  }
  return prompt;
}

}  // namespace quern::test
