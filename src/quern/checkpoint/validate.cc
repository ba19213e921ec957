// See validate.h.
#include "quern/checkpoint/validate.h"

#include <string_view>
#include <unordered_set>

#include "quern/base/error.h"
#include "quern/checkpoint/inspect.h"

namespace quern {
namespace {

constexpr std::int64_t kMxBlock = 32;

// Walks the tensors of a configuration and hands each to `emit`. A walk instead of a list, so that
// a configuration of a million experts fails at the first tensor that is absent.
template <typename Emit>
class Walk {
 public:
  Walk(const ModelConfig& config, Emit emit)
      : config_(config), text_(config.text_config), emit_(emit) {}

  void run() {
    const std::int64_t hidden = text_.hidden_size;
    plain("language_model.model.embed_tokens.weight", {text_.vocab_size, hidden});
    if (!text_.tie_word_embeddings) linear("language_model.lm_head", text_.vocab_size, hidden);
    plain("language_model.model.norm.weight", {hidden});
    for (std::int64_t layer = 0; layer < text_.num_hidden_layers; ++layer) decoder_layer(layer);
    if (config_.vision_config) {
      vision(*config_.vision_config);
      projectors(*config_.vision_config);
    }
  }

 private:
  void decoder_layer(std::int64_t layer) {
    const std::string prefix = fmt::format("language_model.model.layers.{}.", layer);
    plain(prefix + "input_layernorm.weight", {text_.hidden_size});
    plain(prefix + "post_attention_layernorm.weight", {text_.hidden_size});
    attention(prefix + "self_attn.");
    if (text_.is_sparse_attention_layer(layer)) indexer(prefix + "self_attn.");
    if (text_.is_moe_layer(layer)) {
      moe(prefix + "block_sparse_moe.");
    } else {
      mlp(prefix + "mlp.", text_.dense_intermediate_size);
    }
  }

  void attention(const std::string& prefix) {
    const std::int64_t q = text_.num_attention_heads * text_.head_dim;
    const std::int64_t kv = text_.num_key_value_heads * text_.head_dim;
    linear(prefix + "q_proj", q, text_.hidden_size);
    linear(prefix + "k_proj", kv, text_.hidden_size);
    linear(prefix + "v_proj", kv, text_.hidden_size);
    linear(prefix + "o_proj", text_.hidden_size, q);
    if (!text_.use_qk_norm) return;
    plain(prefix + "q_norm.weight", {text_.head_dim});
    plain(prefix + "k_norm.weight", {text_.head_dim});
  }

  void indexer(const std::string& prefix) {
    const SparseAttentionConfig& sparse = *text_.sparse_attention_config;
    const std::int64_t dim = sparse.sparse_index_dim;
    linear(prefix + "index_q_proj", sparse.sparse_num_index_heads * dim, text_.hidden_size);
    linear(prefix + "index_k_proj", dim, text_.hidden_size);
    if (!text_.use_qk_norm) return;
    plain(prefix + "index_q_norm.weight", {dim});
    plain(prefix + "index_k_norm.weight", {dim});
  }

  void mlp(const std::string& prefix, std::int64_t intermediate) {
    linear(prefix + "gate_proj", intermediate, text_.hidden_size);
    linear(prefix + "up_proj", intermediate, text_.hidden_size);
    linear(prefix + "down_proj", text_.hidden_size, intermediate);
  }

  void moe(const std::string& prefix) {
    // The router is never quantized (vLLM minimax_m3/amd/model.py builds it without a
    // quant_config).
    plain(prefix + "gate.weight", {text_.num_local_experts, text_.hidden_size});
    if (text_.use_routing_bias)
      plain(prefix + "e_score_correction_bias", {text_.num_local_experts});
    for (std::int64_t expert = 0; expert < text_.num_local_experts; ++expert) {
      const std::string name = fmt::format("{}experts.{}.", prefix, expert);
      linear(name + "w1", text_.intermediate_size, text_.hidden_size);
      linear(name + "w2", text_.hidden_size, text_.intermediate_size);
      linear(name + "w3", text_.intermediate_size, text_.hidden_size);
    }
    if (text_.n_shared_experts > 0) mlp(prefix + "shared_experts.", text_.shared_intermediate_size);
  }

  void vision(const VisionConfig& vision) {
    const std::string prefix = "vision_tower.vision_model.";
    plain(prefix + "embeddings.patch_embedding.weight",
          {vision.hidden_size, vision.num_channels,
           vision.img_token_compression_config.temporal_patch_size, vision.patch_size,
           vision.patch_size});
    layer_norm(prefix + "pre_layrnorm", vision.hidden_size);
    for (std::int64_t layer = 0; layer < vision.num_hidden_layers; ++layer) {
      const std::string inner = fmt::format("{}encoder.layers.{}.", prefix, layer);
      layer_norm(inner + "layer_norm1", vision.hidden_size);
      layer_norm(inner + "layer_norm2", vision.hidden_size);
      for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
        affine(inner + "self_attn." + name, vision.hidden_size, vision.hidden_size, true);
      }
      affine(inner + "mlp.fc1", vision.intermediate_size, vision.hidden_size, true);
      affine(inner + "mlp.fc2", vision.hidden_size, vision.intermediate_size, true);
    }
  }

  void projectors(const VisionConfig& vision) {
    const std::int64_t merge = vision.img_token_compression_config.spatial_merge_size;
    const std::int64_t inner = config_.projector_hidden_size;
    const std::int64_t out = vision.projection_dim;
    affine("multi_modal_projector.linear_1", inner, vision.hidden_size,
           config_.multimodal_projector_bias);
    affine("multi_modal_projector.linear_2", out, inner, config_.multimodal_projector_bias);
    affine("patch_merge_mlp.linear_1", inner, out * merge * merge, config_.patch_merge_bias);
    affine("patch_merge_mlp.linear_2", out, inner, config_.patch_merge_bias);
  }

  void layer_norm(const std::string& module, std::int64_t size) {
    plain(module + ".weight", {size});
    plain(module + ".bias", {size});
  }

  void affine(const std::string& module, std::int64_t out, std::int64_t in, bool bias) {
    linear(module, out, in);
    if (bias) plain(module + ".bias", {out});
  }

  // A weight [out, in], stored as the quantization configuration says.
  void linear(const std::string& module, std::int64_t out, std::int64_t in) {
    using Kind = ExpectedTensor::Kind;
    if (!config_.quantization_config || !config_.quantization_config->scheme_for(module)) {
      return plain(module + ".weight", {out, in});
    }
    if (in % kMxBlock != 0) {
      throw Error(
          "config.json: {} is quantized to MXFP4, but its {} inputs are not a multiple of {}",
          module, in, kMxBlock);
    }
    emit_(ExpectedTensor{module + ".weight", {out, in / 2}, Kind::kPackedMxfp4});
    emit_(ExpectedTensor{module + ".weight_scale", {out, in / kMxBlock}, Kind::kE8M0Scale});
  }

  void plain(std::string name, Shape shape) {
    emit_(ExpectedTensor{std::move(name), std::move(shape), ExpectedTensor::Kind::kFloat});
  }

  const ModelConfig& config_;
  const TextConfig& text_;
  Emit emit_;
};

bool belongs_to_vision(std::string_view tensor) {
  const ModelPart part = part_of(tensor);
  return part == ModelPart::kVisionTower || part == ModelPart::kProjector ||
         part == ModelPart::kMerger;
}

bool fits(ExpectedTensor::Kind kind, DType dtype) {
  switch (kind) {
    case ExpectedTensor::Kind::kFloat:
      return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
    case ExpectedTensor::Kind::kPackedMxfp4:
      return dtype == DType::kU8;
    case ExpectedTensor::Kind::kE8M0Scale:
      return dtype == DType::kU8 || dtype == DType::kF8E8M0;
  }
  QUERN_CHECK(false);
}

std::string_view kind_text(ExpectedTensor::Kind kind) {
  switch (kind) {
    case ExpectedTensor::Kind::kFloat:
      return "BF16, F16 or F32";
    case ExpectedTensor::Kind::kPackedMxfp4:
      return "U8 (packed MXFP4)";
    case ExpectedTensor::Kind::kE8M0Scale:
      return "U8 (E8M0 scales)";
  }
  QUERN_CHECK(false);
}

void check_tensor(const ExpectedTensor& expected, const Checkpoint& checkpoint) {
  const TensorView* found = checkpoint.find(expected.name);
  if (found == nullptr) {
    throw Error("tensor '{}' is missing: config.json promises {} {}", expected.name,
                kind_text(expected.kind), shape_text(expected.shape));
  }
  if (found->shape != expected.shape || !fits(expected.kind, found->dtype)) {
    throw Error("tensor '{}' is {} {}, but config.json promises {} {}", expected.name,
                dtype_name(found->dtype), shape_text(found->shape), kind_text(expected.kind),
                shape_text(expected.shape));
  }
}

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> tensors;
  Walk(config, [&](ExpectedTensor tensor) { tensors.push_back(std::move(tensor)); }).run();
  return tensors;
}

void validate_tensors(const ModelConfig& config, const Checkpoint& checkpoint) {
  with_context(checkpoint.directory().string(), [&] {
    std::unordered_set<std::string> expected;
    Walk(config, [&](ExpectedTensor tensor) {
      check_tensor(tensor, checkpoint);
      expected.insert(std::move(tensor.name));
    }).run();
    for (const Checkpoint::Tensor& tensor : checkpoint.tensors()) {
      const bool ignored = tensor.name.find("mtp.") != std::string_view::npos ||
                           (!config.vision_config && belongs_to_vision(tensor.name));
      if (!ignored && !expected.contains(std::string(tensor.name))) {
        throw Error("tensor '{}' ({} {}) is not one that config.json promises", tensor.name,
                    dtype_name(tensor.view.dtype), shape_text(tensor.view.shape));
      }
    }
  });
}

}  // namespace quern
