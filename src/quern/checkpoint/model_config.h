// config.json, generation_config.json and preprocessor_config.json as plain structs.
// Must never let a value of the wrong type or an impossible size through; unknown keys are ignored.
// Proved by tests/checkpoint/model_config_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/checkpoint/quantization_config.h"

namespace quern {

// Field names are the keys of the files. A value given here is the default for an absent (or null)
// key; keys without one are required. Defaults are those of the released MiniMax-M3 and of the
// readers that serve it.

struct RopeScaling {
  std::string rope_type;  // also read from the older key "type"
  double factor = 1.0;
  std::int64_t original_max_position_embeddings = 0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
};

struct SparseAttentionConfig {
  bool use_sparse_attention = true;
  std::int64_t sparse_index_dim = 0;
  std::int64_t sparse_num_index_heads = 0;
  std::int64_t sparse_topk_blocks = 0;
  std::int64_t sparse_block_size = 128;
  std::string sparse_score_type = "max";
  std::int64_t sparse_init_block = 0;
  std::int64_t sparse_local_block = 1;
  std::vector<std::int64_t>
      sparse_disable_index_value;                   // a layer each; default: as the frequency list
  std::vector<std::int64_t> sparse_attention_freq;  // a layer each: 0 full, 1 sparse
};

struct TextConfig {
  std::vector<std::string> architectures;
  std::string model_type;
  std::string torch_dtype = "bfloat16";  // also "dtype"; default: the top level's

  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool use_gemma_norm = true;
  bool tie_word_embeddings = false;

  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  bool attention_output_gate = false;
  bool use_qk_norm = true;
  std::string qk_norm_type = "per_head";
  double rope_theta = 5000000.0;
  std::int64_t rotary_dim = 0;         // default: head_dim x partial_rotary_factor
  double partial_rotary_factor = 0.5;  // default: rotary_dim / head_dim when that is given
  std::optional<RopeScaling> rope_scaling;
  std::optional<SparseAttentionConfig> sparse_attention_config;

  std::int64_t intermediate_size = 0;         // of one routed expert
  std::int64_t dense_intermediate_size = 0;   // required when a layer is dense
  std::int64_t shared_intermediate_size = 0;  // default: intermediate_size
  std::string hidden_act = "swigluoai";
  double swiglu_alpha = 1.702;
  double swiglu_beta = 1.0;
  double swiglu_limit = 7.0;

  std::int64_t num_local_experts = 0;
  std::int64_t num_experts_per_tok = 0;
  std::int64_t n_shared_experts = 1;
  std::string scoring_func = "sigmoid";
  bool use_routing_bias = true;
  double routed_scaling_factor = 2.0;
  std::string router_dtype = "float32";
  std::vector<std::int64_t> moe_layer_freq;  // a layer each: 0 dense, 1 MoE; default: all MoE

  std::int64_t num_mtp_modules = 0;
  std::int64_t num_nextn_predict_layers = 0;
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_id;  // a number or a list in the file

  bool is_moe_layer(std::int64_t layer) const;
  bool is_sparse_attention_layer(std::int64_t layer) const;
};

struct TokenCompressionConfig {
  std::string image_token_compression_method = "patch_merge";
  std::int64_t spatial_merge_size = 2;
  std::int64_t temporal_patch_size = 2;
  std::optional<double> image_token_compression_threshold;  // preprocessor_config.json only
  std::optional<std::int64_t> max_image_resolution;         // preprocessor_config.json only
};

struct VisionConfig {
  std::string model_type = "clip_vision_model";
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_channels = 3;
  std::int64_t image_size = 2016;
  std::int64_t patch_size = 14;
  std::int64_t projection_dim = 0;  // default: text hidden_size
  std::string hidden_act = "gelu";
  double layer_norm_eps = 1e-5;
  double attention_dropout = 0.0;
  std::string position_embedding_type = "rope";
  std::string rope_mode = "3d";
  double rope_theta = 10000.0;
  double initializer_factor = 1.0;
  double initializer_range = 0.02;
  TokenCompressionConfig img_token_compression_config;  // default: the top level's
  std::int64_t vision_segment_max_frames = 4;
  std::int64_t vocab_size = 32000;
};

struct ModelConfig {
  std::vector<std::string> architectures;
  std::string model_type;
  std::string torch_dtype = "bfloat16";  // also "dtype"
  std::string transformers_version;
  std::vector<std::array<std::int64_t, 2>>
      image_grid_pinpoints;  // a list, or a string of that list
  std::int64_t image_seq_length = 576;
  std::optional<std::int64_t> image_token_index;
  std::optional<std::int64_t> video_token_index;
  TokenCompressionConfig img_token_compression_config;
  bool multimodal_projector_bias = true;
  bool patch_merge_bias = true;
  std::int64_t num_reward_heads = 0;
  std::string process_image_mode = "dynamic_res";
  std::string projector_hidden_act = "gelu";
  std::int64_t projector_hidden_size = 0;  // default: text hidden_size
  std::int64_t vision_feature_layer = -1;
  std::string vision_feature_select_strategy = "full";
  bool tie_word_embeddings = false;

  TextConfig text_config;
  std::optional<VisionConfig> vision_config;
  std::optional<QuantizationConfig> quantization_config;

  bool is_moe_layer(std::int64_t layer) const { return text_config.is_moe_layer(layer); }
  bool is_sparse_attention_layer(std::int64_t layer) const {
    return text_config.is_sparse_attention_layer(layer);
  }
};

// Reads and checks a parsed config.json. Errors read "config.json: text_config.hidden_size:
// expected a positive integer, found \"x\"".
ModelConfig parse_model_config(const Json& json);

// Throws an Error that names the first feature (a key and its value) that the formulas of the
// MiniMax-M3 implementation do not cover. Sizes are never refused.
void check_supported(const ModelConfig& config);

// The same for the vision tower; a configuration without vision_config is refused.
void check_vision_supported(const ModelConfig& config);

// generation_config.json: sampling defaults of the checkpoint. Absent keys stay empty.
struct GenerationConfig {
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<std::int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<std::int64_t> max_new_tokens;
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_id;  // a number or a list in the file
  std::optional<std::int64_t> pad_token_id;
};
GenerationConfig parse_generation_config(const Json& json);

// preprocessor_config.json. Defaults are those of the MiniMax-M3 processor.
struct PreprocessorConfig {
  std::string processor_class;
  std::string image_processor_type;
  std::string process_image_mode = "dynamic_res";
  std::array<double, 3> image_mean{0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> image_std{0.26862954, 0.26130258, 0.27577711};
  double rescale_factor = 1.0 / 255.0;
  bool do_resize = true;
  bool do_rescale = true;
  bool do_normalize = true;
  bool do_convert_rgb = true;
  std::int64_t resample = 3;  // Pillow's number for bicubic
  // {height, width}; a list, an object with height and width, or with shortest_edge. Not a bound.
  std::optional<std::array<std::int64_t, 2>> size;
  std::int64_t patch_size = 14;
  std::int64_t temporal_patch_size = 2;  // default: that of img_token_compression_config
  std::int64_t merge_size = 2;  // default: spatial_merge_size of img_token_compression_config
  std::int64_t min_pixels = 3136;
  std::int64_t max_pixels = 451584;
  bool add_start_end_special_tokens = true;
  TokenCompressionConfig img_token_compression_config;
};
PreprocessorConfig parse_preprocessor_config(const Json& json);

// The files of a checkpoint directory; an absent generation or preprocessor file gives the
// defaults.
ModelConfig read_model_config(const std::filesystem::path& directory);
GenerationConfig read_generation_config(const std::filesystem::path& directory);
PreprocessorConfig read_preprocessor_config(const std::filesystem::path& directory);

}  // namespace quern
