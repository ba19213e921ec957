// The tensors that a configuration promises against those of a checkpoint.
#include "quern/checkpoint/validate.h"

#include <gmock/gmock.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "tests/checkpoint/write_tensors.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

using test::error_message;
using test::TempDirectory;
using test::TestTensor;
using testing::HasSubstr;

TEST(Validate, TheTinyModelIsWhatItsConfigPromises) {
  const Checkpoint checkpoint = Checkpoint::open(test::kTinyModel);
  const ModelConfig config = read_model_config(test::kTinyModel);
  EXPECT_EQ(expected_tensors(config).size(), 317U);
  EXPECT_EQ(error_message([&] { validate_tensors(config, checkpoint); }), "");
}

// The release's sizes: 23,416 tensors and 427,040,140,160 parameters, read from its 59 headers.
TEST(Validate, CountsOfTheRelease) {
  ModelConfig config = read_model_config(test::kTinyModel);
  TextConfig& text = config.text_config;
  text.hidden_size = 6144, text.vocab_size = 200064, text.num_hidden_layers = 60;
  text.num_attention_heads = 64, text.num_key_value_heads = 4, text.head_dim = 128;
  text.intermediate_size = text.shared_intermediate_size = 3072,
  text.dense_intermediate_size = 12288;
  text.num_local_experts = 128;
  text.moe_layer_freq.assign(60, 1);
  std::fill_n(text.moe_layer_freq.begin(), 3, 0);
  SparseAttentionConfig& sparse = *text.sparse_attention_config;
  sparse.sparse_index_dim = 128, sparse.sparse_num_index_heads = 4;
  sparse.sparse_attention_freq = text.moe_layer_freq;
  VisionConfig& vision = *config.vision_config;
  vision.hidden_size = 1280, vision.intermediate_size = 5120, vision.num_hidden_layers = 32;
  vision.projection_dim = config.projector_hidden_size = 6144;
  std::int64_t parameters = 0;
  const std::vector<ExpectedTensor> tensors = expected_tensors(config);
  for (const ExpectedTensor& tensor : tensors) parameters += num_elements(tensor.shape);
  EXPECT_EQ(tensors.size(), 23416U);
  EXPECT_EQ(parameters, 427'040'140'160);
}

TEST(Validate, ContradictionsAreErrorsWithTensorFoundAndExpected) {
  const Checkpoint checkpoint = Checkpoint::open(test::kTinyModel);
  const Json original = checkpoint.config();
  const struct {
    const char* pointer;
    const char* value;
    const char* expected;
  } cases[] = {
      {"/text_config/vocab_size", "2049",
       "tensor 'language_model.model.embed_tokens.weight' is BF16 [2048, 192], but config.json "
       "promises "
       "BF16, F16 or F32 [2049, 192]"},
      {"/text_config/num_local_experts", "15", "block_sparse_moe.gate.weight' is F32 [16, 192]"},
      {"/text_config/intermediate_size", "96", "experts.0.w1.weight' is BF16 [64, 192]"},
      {"/text_config/moe_layer_freq", "[0,0,1,1,1]",
       "tensor 'language_model.model.layers.1.mlp.gate_proj.weight' is missing"},
      {"/text_config/sparse_attention_config/use_sparse_attention", "false",
       "index_k_norm.weight' (BF16 [32]) is not one that config.json promises"},
      {"/text_config/tie_word_embeddings", "true", "lm_head.weight' (BF16 [2048, 192]) is not one"},
      {"/multimodal_projector_bias", "false", "multi_modal_projector.linear_1.bias' (BF16 [192])"},
      {"/vision_config/num_hidden_layers", "3", "encoder.layers.2.layer_norm1.weight' is missing"},
  };
  for (const auto& c : cases) {
    Json json = original;
    json[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    const ModelConfig config = parse_model_config(json);
    EXPECT_THAT(error_message([&] { validate_tensors(config, checkpoint); }),
                HasSubstr(c.expected));
  }
}

TEST(Validate, QuantizedModulesAreExpectedPackedAndMtpIsIgnored) {
  Json json = Checkpoint::open(test::kTinyModel).config();
  const Json spec = {{"dtype", "fp4"},
                     {"is_dynamic", false},
                     {"qscheme", "per_group"},
                     {"group_size", 32},
                     {"scale_format", "e8m0"}};
  json["quantization_config"] = {{"quant_method", "quark"},
                                 {"global_quant_config", {{"weight", spec}}},
                                 {"exclude", {"re:(?!.*experts)"}},
                                 {"export", {{"weight_format", "real_quantized"}}}};
  const ModelConfig config = parse_model_config(json);
  std::vector<TestTensor> tensors{
      {"language_model.model.mtp.layers.0.enorm.weight", DType::kBF16, {1}, "ab"}};
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const DType dtype = tensor.kind == ExpectedTensor::Kind::kFloat ? DType::kBF16 : DType::kU8;
    const auto bytes = static_cast<std::size_t>(num_elements(tensor.shape)) * dtype_bytes(dtype);
    tensors.push_back({tensor.name, dtype, tensor.shape, std::string(bytes, '\0')});
  }
  EXPECT_EQ(tensors.size(), 1U + 317U + 4 * (16 + 1) * 3);
  const TempDirectory directory;
  write_file(directory / "config.json", json.dump());
  test::write_tensors(directory / "model.safetensors", tensors);
  EXPECT_EQ(error_message([&] { validate_tensors(config, Checkpoint::open(directory.path())); }),
            "");
  EXPECT_THAT(
      error_message([&] { validate_tensors(config, Checkpoint::open(test::kTinyModel)); }),
      HasSubstr(
          "experts.0.w1.weight' is BF16 [64, 192], but config.json promises U8 (packed MXFP4) "
          "[64, 96]"));
}

}  // namespace
}  // namespace quern
