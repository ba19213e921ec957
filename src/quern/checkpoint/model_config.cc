// Parsing and checking of config.json; see model_config.h.
#include "quern/checkpoint/model_config.h"

#include <cmath>
#include <utility>

#include "quern/checkpoint/config_reader.h"
#include "quern/checkpoint/config_sections.h"

namespace quern {
namespace {

// Far above any model; they bound what a hostile file can make us allocate.
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxExperts = 65536;

constexpr double kTiny = 1e-30;
constexpr double kHuge = 1e30;

void read_dtype(const ConfigReader& reader, std::string& field) {
  reader.read("torch_dtype", field);
  reader.read("dtype", field);
}

// One entry a layer; an absent list means `absent` for every layer.
void read_frequency(const ConfigReader& reader, std::string_view key, std::int64_t num_layers,
                    const std::vector<std::int64_t>& absent, std::vector<std::int64_t>& field) {
  field = absent;
  reader.read(key, field, 0, 1);
  if (static_cast<std::int64_t>(field.size()) != num_layers) {
    reader.fail(key, fmt::format("expected {} entries (num_hidden_layers), found {}", num_layers,
                                 field.size()));
  }
}

SparseAttentionConfig read_sparse_attention(const ConfigReader& reader, const TextConfig& text) {
  SparseAttentionConfig config;
  reader.read("use_sparse_attention", config.use_sparse_attention);
  reader.require("sparse_index_dim", config.sparse_index_dim);
  reader.require("sparse_num_index_heads", config.sparse_num_index_heads);
  reader.require("sparse_topk_blocks", config.sparse_topk_blocks);
  reader.read("sparse_block_size", config.sparse_block_size);
  reader.read("sparse_score_type", config.sparse_score_type);
  reader.read("sparse_init_block", config.sparse_init_block, 0);
  reader.read("sparse_local_block", config.sparse_local_block, 0);
  const std::vector<std::int64_t> all(static_cast<std::size_t>(text.num_hidden_layers), 1);
  read_frequency(reader, "sparse_attention_freq", text.num_hidden_layers, all,
                 config.sparse_attention_freq);
  read_frequency(reader, "sparse_disable_index_value", text.num_hidden_layers,
                 config.sparse_attention_freq, config.sparse_disable_index_value);
  if (text.num_key_value_heads % config.sparse_num_index_heads != 0) {
    reader.fail("sparse_num_index_heads",
                fmt::format("{} does not divide num_key_value_heads {}",
                            config.sparse_num_index_heads, text.num_key_value_heads));
  }
  if (text.rotary_dim > config.sparse_index_dim) {
    reader.fail("sparse_index_dim", fmt::format("{} is smaller than rotary_dim {}",
                                                config.sparse_index_dim, text.rotary_dim));
  }
  if (config.sparse_local_block + config.sparse_init_block > config.sparse_topk_blocks) {
    reader.fail("sparse_topk_blocks",
                fmt::format("{} is fewer than the {} blocks that are always selected",
                            config.sparse_topk_blocks,
                            config.sparse_local_block + config.sparse_init_block));
  }
  return config;
}

std::optional<RopeScaling> read_rope_scaling(const ConfigReader& parent) {
  const std::optional<ConfigReader> reader = parent.object("rope_scaling");
  if (!reader) return std::nullopt;
  RopeScaling scaling;
  reader->read("type", scaling.rope_type);
  reader->read("rope_type", scaling.rope_type);
  if (scaling.rope_type.empty()) reader->fail("rope_type", "is missing");
  reader->read("factor", scaling.factor, kTiny, kHuge);
  reader->read("original_max_position_embeddings", scaling.original_max_position_embeddings);
  reader->read("beta_fast", scaling.beta_fast);
  reader->read("beta_slow", scaling.beta_slow);
  return scaling;
}

void read_attention(const ConfigReader& reader, TextConfig& config) {
  reader.require("num_attention_heads", config.num_attention_heads);
  reader.require("num_key_value_heads", config.num_key_value_heads);
  reader.require("head_dim", config.head_dim);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    reader.fail("num_attention_heads",
                fmt::format("{} is not a multiple of num_key_value_heads {}",
                            config.num_attention_heads, config.num_key_value_heads));
  }
  reader.read("attention_output_gate", config.attention_output_gate);
  reader.read("use_qk_norm", config.use_qk_norm);
  reader.read("qk_norm_type", config.qk_norm_type);
  reader.read("rope_theta", config.rope_theta, 1.0, kHuge);

  reader.read("partial_rotary_factor", config.partial_rotary_factor, 0.0, 1.0);
  const double head_dim = static_cast<double>(config.head_dim);
  const auto by_factor = static_cast<std::int64_t>(head_dim * config.partial_rotary_factor);
  config.rotary_dim = by_factor;
  reader.read("rotary_dim", config.rotary_dim);
  if (reader.has("rotary_dim") && reader.has("partial_rotary_factor") &&
      config.rotary_dim != by_factor) {
    reader.fail("rotary_dim",
                fmt::format("{} contradicts head_dim {} x partial_rotary_factor {}",
                            config.rotary_dim, config.head_dim, config.partial_rotary_factor));
  }
  config.partial_rotary_factor = static_cast<double>(config.rotary_dim) / head_dim;
  if (config.rotary_dim % 2 != 0 || config.rotary_dim > config.head_dim || config.rotary_dim == 0) {
    reader.fail("rotary_dim", fmt::format("expected an even number of 2 to head_dim {}, found {}",
                                          config.head_dim, config.rotary_dim));
  }
  config.rope_scaling = read_rope_scaling(reader);
}

void read_feed_forward(const ConfigReader& reader, TextConfig& config) {
  const std::vector<std::int64_t> all(static_cast<std::size_t>(config.num_hidden_layers), 1);
  read_frequency(reader, "moe_layer_freq", config.num_hidden_layers, all, config.moe_layer_freq);
  bool any_moe = false;
  bool any_dense = false;
  for (const std::int64_t moe : config.moe_layer_freq) (moe != 0 ? any_moe : any_dense) = true;

  if (any_dense) reader.require("dense_intermediate_size", config.dense_intermediate_size);
  if (any_moe) {
    reader.require("intermediate_size", config.intermediate_size);
    reader.require("num_local_experts", config.num_local_experts, kMaxExperts);
    reader.require("num_experts_per_tok", config.num_experts_per_tok);
    if (config.num_experts_per_tok > config.num_local_experts) {
      reader.fail("num_experts_per_tok",
                  fmt::format("{} is more than num_local_experts {}", config.num_experts_per_tok,
                              config.num_local_experts));
    }
  }
  reader.read("intermediate_size", config.intermediate_size);
  reader.read("dense_intermediate_size", config.dense_intermediate_size);
  config.shared_intermediate_size = config.intermediate_size;
  reader.read("shared_intermediate_size", config.shared_intermediate_size);
  reader.read("n_shared_experts", config.n_shared_experts, 0, kMaxExperts);
  reader.read("hidden_act", config.hidden_act);
  reader.read("swiglu_alpha", config.swiglu_alpha);
  reader.read("swiglu_beta", config.swiglu_beta);
  reader.read("swiglu_limit", config.swiglu_limit, kTiny, kHuge);
  reader.read("scoring_func", config.scoring_func);
  reader.read("use_routing_bias", config.use_routing_bias);
  reader.read("routed_scaling_factor", config.routed_scaling_factor);
  reader.read("router_dtype", config.router_dtype);
}

TextConfig read_text(const ConfigReader& reader, const ModelConfig& model) {
  TextConfig config;
  reader.read("architectures", config.architectures);
  reader.read("model_type", config.model_type);
  config.torch_dtype = model.torch_dtype;
  read_dtype(reader, config.torch_dtype);
  reader.require("vocab_size", config.vocab_size);
  reader.require("hidden_size", config.hidden_size);
  reader.require("num_hidden_layers", config.num_hidden_layers, kMaxLayers);
  reader.require("max_position_embeddings", config.max_position_embeddings);
  reader.read("rms_norm_eps", config.rms_norm_eps, 0.0, 1.0);
  reader.read("use_gemma_norm", config.use_gemma_norm);
  config.tie_word_embeddings = model.tie_word_embeddings;
  reader.read("tie_word_embeddings", config.tie_word_embeddings);
  read_attention(reader, config);
  if (const auto sparse = reader.object("sparse_attention_config")) {
    config.sparse_attention_config = read_sparse_attention(*sparse, config);
  }
  read_feed_forward(reader, config);
  reader.read("num_mtp_modules", config.num_mtp_modules, 0);
  reader.read("num_nextn_predict_layers", config.num_nextn_predict_layers, 0);
  reader.read("bos_token_id", config.bos_token_id, std::int64_t{0}, config.vocab_size - 1);
  reader.read_one_or_more("eos_token_id", config.eos_token_id, 0, config.vocab_size - 1);
  return config;
}

VisionConfig read_vision(const ConfigReader& reader, const ModelConfig& model) {
  VisionConfig config;
  reader.read("model_type", config.model_type);
  reader.require("hidden_size", config.hidden_size);
  reader.require("intermediate_size", config.intermediate_size);
  reader.require("num_hidden_layers", config.num_hidden_layers, kMaxLayers);
  reader.require("num_attention_heads", config.num_attention_heads);
  if (config.hidden_size % config.num_attention_heads != 0) {
    reader.fail("hidden_size", fmt::format("{} is not a multiple of num_attention_heads {}",
                                           config.hidden_size, config.num_attention_heads));
  }
  reader.read("num_channels", config.num_channels, 1, 64);
  reader.read("image_size", config.image_size);
  reader.read("patch_size", config.patch_size, 1, 4096);
  config.projection_dim = model.text_config.hidden_size;
  reader.read("projection_dim", config.projection_dim);
  reader.read("hidden_act", config.hidden_act);
  reader.read("layer_norm_eps", config.layer_norm_eps, 0.0, 1.0);
  reader.read("attention_dropout", config.attention_dropout, 0.0, 1.0);
  reader.read("position_embedding_type", config.position_embedding_type);
  reader.read("rope_mode", config.rope_mode);
  reader.read("rope_theta", config.rope_theta, 1.0, kHuge);
  reader.read("initializer_factor", config.initializer_factor);
  reader.read("initializer_range", config.initializer_range);
  config.img_token_compression_config =
      read_token_compression(reader, model.img_token_compression_config);
  reader.read("vision_segment_max_frames", config.vision_segment_max_frames);
  reader.read("vocab_size", config.vocab_size);
  return config;
}

// The release stores Python's text of the list: "[(336, 336), (336, 672), ...]".
Json pinpoints_from_text(const ConfigReader& reader, std::string_view key, std::string text) {
  for (char& c : text) {
    if (c == '(') c = '[';
    if (c == ')') c = ']';
  }
  try {
    return parse_json(text, key);
  } catch (const Error&) {
    reader.fail(key, "expected a list of pairs, found a string that is not the text of one");
  }
}

void read_pinpoints(const ConfigReader& reader, ModelConfig& config) {
  constexpr std::string_view kKey = "image_grid_pinpoints";
  const Json* value = reader.value(kKey);
  if (value == nullptr) return;
  const Json list =
      value->is_string() ? pinpoints_from_text(reader, kKey, value->get<std::string>()) : *value;
  if (!list.is_array()) reader.fail(kKey, "expected a list of pairs");
  for (const Json& item : list) {
    const auto is_size = [](const Json& side) {
      return side.is_number_unsigned() && side.get<std::uint64_t>() <= ConfigReader::kMaxInteger;
    };
    if (!item.is_array() || item.size() != 2 || !is_size(item[0]) || !is_size(item[1])) {
      reader.fail(kKey, fmt::format("entry {}: expected a pair of sizes",
                                    config.image_grid_pinpoints.size()));
    }
    config.image_grid_pinpoints.push_back(
        {item[0].get<std::int64_t>(), item[1].get<std::int64_t>()});
  }
}

}  // namespace

TokenCompressionConfig read_token_compression(const ConfigReader& parent,
                                              TokenCompressionConfig config) {
  const std::optional<ConfigReader> reader = parent.object("img_token_compression_config");
  if (!reader) return config;
  reader->read("image_token_compression_method", config.image_token_compression_method);
  reader->read("spatial_merge_size", config.spatial_merge_size, 1, 64);
  reader->read("temporal_patch_size", config.temporal_patch_size, 1, 64);
  reader->read("image_token_compression_threshold", config.image_token_compression_threshold);
  reader->read("max_image_resolution", config.max_image_resolution);
  return config;
}

bool TextConfig::is_moe_layer(std::int64_t layer) const {
  return moe_layer_freq.at(static_cast<std::size_t>(layer)) != 0;
}

bool TextConfig::is_sparse_attention_layer(std::int64_t layer) const {
  return sparse_attention_config.has_value() && sparse_attention_config->use_sparse_attention &&
         sparse_attention_config->sparse_attention_freq.at(static_cast<std::size_t>(layer)) != 0;
}

ModelConfig parse_model_config(const Json& json) {
  const ConfigReader reader(json, "config.json");
  ModelConfig config;
  reader.read("architectures", config.architectures);
  reader.read("model_type", config.model_type);
  read_dtype(reader, config.torch_dtype);
  reader.read("transformers_version", config.transformers_version);
  read_pinpoints(reader, config);
  reader.read("image_seq_length", config.image_seq_length);
  config.img_token_compression_config = read_token_compression(reader, {});
  reader.read("multimodal_projector_bias", config.multimodal_projector_bias);
  reader.read("patch_merge_bias", config.patch_merge_bias);
  reader.read("num_reward_heads", config.num_reward_heads, 0);
  reader.read("process_image_mode", config.process_image_mode);
  reader.read("projector_hidden_act", config.projector_hidden_act);
  reader.read("vision_feature_layer", config.vision_feature_layer, -kMaxLayers, kMaxLayers);
  reader.read("vision_feature_select_strategy", config.vision_feature_select_strategy);
  reader.read("tie_word_embeddings", config.tie_word_embeddings);

  config.text_config = read_text(reader.required_object("text_config"), config);
  const std::int64_t last_token = config.text_config.vocab_size - 1;
  reader.read("image_token_index", config.image_token_index, std::int64_t{0}, last_token);
  reader.read("video_token_index", config.video_token_index, std::int64_t{0}, last_token);
  config.projector_hidden_size = config.text_config.hidden_size;
  reader.read("projector_hidden_size", config.projector_hidden_size);
  if (const auto vision = reader.object("vision_config")) {
    config.vision_config = read_vision(*vision, config);
    if (config.vision_config->projection_dim != config.text_config.hidden_size) {
      reader.fail(
          "vision_config.projection_dim",
          fmt::format("{} is not text_config.hidden_size {}", config.vision_config->projection_dim,
                      config.text_config.hidden_size));
    }
  }
  if (const Json* quantization = reader.value("quantization_config")) {
    config.quantization_config = QuantizationConfig::parse(*quantization);
  }
  return config;
}

void check_supported(const ModelConfig& config) {
  const auto require = [](bool supported, std::string_view key, const auto& value) {
    if (!supported) throw Error("config.json: {}: {} is not supported", key, value);
  };
  const TextConfig& text = config.text_config;
  require(config.model_type == "minimax_m3_vl", "model_type", config.model_type);
  require(config.num_reward_heads == 0, "num_reward_heads", config.num_reward_heads);
  require(text.hidden_act == "swigluoai", "text_config.hidden_act", text.hidden_act);
  require(text.scoring_func == "sigmoid", "text_config.scoring_func", text.scoring_func);
  require(!text.attention_output_gate, "text_config.attention_output_gate", true);
  require(text.use_qk_norm, "text_config.use_qk_norm", false);
  require(text.qk_norm_type == "per_head", "text_config.qk_norm_type", text.qk_norm_type);
  require(text.use_gemma_norm, "text_config.use_gemma_norm", false);
  require(text.n_shared_experts <= 1, "text_config.n_shared_experts", text.n_shared_experts);
  if (text.rope_scaling) {
    require(false, "text_config.rope_scaling.rope_type", text.rope_scaling->rope_type);
  }
  if (!text.sparse_attention_config) return;
  const SparseAttentionConfig& sparse = *text.sparse_attention_config;
  const std::string prefix = "text_config.sparse_attention_config.";
  require(sparse.sparse_score_type == "max", prefix + "sparse_score_type",
          sparse.sparse_score_type);
  // Selection is per group: index head g serves KV head g (vLLM minimax_m3/common/indexer.py).
  require(sparse.sparse_num_index_heads == text.num_key_value_heads,
          prefix + "sparse_num_index_heads",
          fmt::format("{} beside num_key_value_heads {}", sparse.sparse_num_index_heads,
                      text.num_key_value_heads));
  for (std::int64_t layer = 0; layer < text.num_hidden_layers; ++layer) {
    const bool index_value =
        sparse.sparse_disable_index_value[static_cast<std::size_t>(layer)] == 0;
    require(!(text.is_sparse_attention_layer(layer) && index_value),
            fmt::format("{}sparse_disable_index_value[{}]", prefix, layer), 0);
  }
}

void check_vision_supported(const ModelConfig& config) {
  if (!config.vision_config) throw Error("config.json: vision_config is missing");
  const auto require = [](bool supported, std::string_view key, const auto& value) {
    if (!supported) throw Error("config.json: {}: {} is not supported", key, value);
  };
  const VisionConfig& vision = *config.vision_config;
  const std::string& method = vision.img_token_compression_config.image_token_compression_method;
  require(vision.hidden_act == "gelu", "vision_config.hidden_act", vision.hidden_act);
  require(vision.position_embedding_type == "rope", "vision_config.position_embedding_type",
          vision.position_embedding_type);
  require(vision.rope_mode == "3d", "vision_config.rope_mode", vision.rope_mode);
  require(vision.num_channels == 3, "vision_config.num_channels", vision.num_channels);
  require(method == "patch_merge",
          "vision_config.img_token_compression_config.image_token_compression_method", method);
  require(config.projector_hidden_act == "gelu", "projector_hidden_act",
          config.projector_hidden_act);
  require(config.vision_feature_layer == -1, "vision_feature_layer", config.vision_feature_layer);
  require(config.vision_feature_select_strategy == "full", "vision_feature_select_strategy",
          config.vision_feature_select_strategy);
}

}  // namespace quern
