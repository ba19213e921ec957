// config.json, generation_config.json, preprocessor_config.json: values, defaults, both forms of a
// key, and one row for each way in which a file can be wrong.
#include "quern/checkpoint/model_config.h"

#include <gmock/gmock.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "tests/support/error_message.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

using test::error_message;
using testing::ElementsAre;
using testing::HasSubstr;

Json tiny() {
  return parse_json(read_file(test::kTinyModel / "config.json", 1 << 20), "config.json");
}

TEST(ModelConfig, ReadsTheTinyModel) {
  const ModelConfig config = read_model_config(test::kTinyModel);
  const TextConfig& text = config.text_config;
  EXPECT_EQ(config.model_type, "minimax_m3_vl");
  EXPECT_EQ(config.image_token_index, 2009);
  EXPECT_EQ(config.image_grid_pinpoints.size(), 4U);
  EXPECT_EQ(text.hidden_size, 192);
  EXPECT_EQ(text.rotary_dim, 16);
  EXPECT_EQ(text.swiglu_alpha, 1.702);
  EXPECT_EQ(text.rope_theta, 5e6);
  EXPECT_THAT(text.eos_token_id, ElementsAre(2004));
  EXPECT_FALSE(config.is_moe_layer(0));
  EXPECT_TRUE(config.is_moe_layer(4));
  EXPECT_FALSE(config.is_sparse_attention_layer(0));
  EXPECT_TRUE(config.is_sparse_attention_layer(1));
  ASSERT_TRUE(config.vision_config.has_value());
  EXPECT_EQ(config.vision_config->patch_size, 14);
  EXPECT_FALSE(config.quantization_config.has_value());
  EXPECT_EQ(error_message([&] { check_supported(config); }), "");
}

TEST(ModelConfig, DefaultsAreTheDocumentedOnes) {
  Json json = tiny();
  for (const char* key : {"swiglu_alpha", "swiglu_beta", "swiglu_limit", "rotary_dim", "rope_theta",
                          "shared_intermediate_size", "routed_scaling_factor", "eos_token_id"}) {
    json["text_config"].erase(key);
  }
  json["text_config"]["head_dim"] = 64;
  const ModelConfig config = parse_model_config(json);
  const TextConfig& text = config.text_config;
  EXPECT_EQ(text.swiglu_alpha, 1.702);
  EXPECT_EQ(text.swiglu_beta, 1.0);
  EXPECT_EQ(text.swiglu_limit, 7.0);
  EXPECT_EQ(text.rotary_dim, 32);  // head_dim x partial_rotary_factor
  EXPECT_EQ(text.rope_theta, 5e6);
  EXPECT_EQ(text.shared_intermediate_size, 64);
  EXPECT_EQ(text.routed_scaling_factor, 2.0);
  EXPECT_EQ(text.router_dtype, "float32");
  EXPECT_FALSE(text.rope_scaling.has_value());
  EXPECT_TRUE(config.patch_merge_bias);
  EXPECT_TRUE(text.eos_token_id.empty());
}

TEST(ModelConfig, AcceptsBothFormsAndUnknownKeys) {
  Json json = tiny();
  json["image_grid_pinpoints"] = "[(336, 336), (336, 672)]";
  json["text_config"]["eos_token_id"] = {1, 2};
  json["text_config"]["something_new"] = {{"a", 1}};
  json.erase("vision_config");
  const ModelConfig config = parse_model_config(json);
  EXPECT_THAT(config.image_grid_pinpoints,
              ElementsAre(ElementsAre(336, 336), ElementsAre(336, 672)));
  EXPECT_THAT(config.text_config.eos_token_id, ElementsAre(1, 2));
  EXPECT_FALSE(config.vision_config.has_value());
}

TEST(ModelConfig, WrongFilesAreRefusedWithTheKey) {
  const struct {
    const char* pointer;  // a JSON pointer; the value replaces what is there
    const char* value;    // JSON text; "" removes the key
    const char* expected;
  } cases[] = {
      {"/text_config", "", "config.json: text_config: is missing"},
      {"/text_config", "[]", "config.json: text_config: expected an object, found a list of 0"},
      {"/text_config/hidden_size", "\"x\"",
       "config.json: text_config.hidden_size: expected a positive integer, found \"x\""},
      {"/text_config/hidden_size", "0",
       "text_config.hidden_size: expected a positive integer, found 0"},
      {"/text_config/hidden_size", "-1", "expected a positive integer, found -1"},
      {"/text_config/hidden_size", "192.0", "expected a positive integer, found 192.0"},
      {"/text_config/hidden_size", "18446744073709551615", "found 18446744073709551615"},
      {"/text_config/hidden_size", "", "text_config.hidden_size: is missing"},
      {"/text_config/hidden_size", "null", "text_config.hidden_size: is missing"},
      {"/text_config/num_hidden_layers", "2147483647", "expected an integer of 1 to 4096"},
      {"/text_config/num_hidden_layers", "6",
       "text_config.sparse_attention_config.sparse_attention_freq: expected 6 entries "
       "(num_hidden_layers), "
       "found 5"},
      {"/text_config/moe_layer_freq", "[0,1,1,1]", "moe_layer_freq: expected 5 entries"},
      {"/text_config/moe_layer_freq", "[0,1,1,1,2]",
       "text_config.moe_layer_freq[4]: expected an integer of 0 to 1, found 2"},
      {"/text_config/moe_layer_freq", "[0,1,1,1,true]",
       "expected an integer of 0 to 1, found true"},
      {"/text_config/num_key_value_heads", "3", "8 is not a multiple of num_key_value_heads 3"},
      {"/text_config/num_experts_per_tok", "17", "17 is more than num_local_experts 16"},
      {"/text_config/rotary_dim", "18", "18 contradicts head_dim 32 x partial_rotary_factor 0.5"},
      {"/text_config/partial_rotary_factor", "1.5", "expected a number of 0 to 1, found 1.5"},
      {"/text_config/rms_norm_eps", "\"1e-6\"",
       "text_config.rms_norm_eps: expected a number of 0 to 1"},
      {"/text_config/use_qk_norm", "1", "text_config.use_qk_norm: expected true or false, found 1"},
      {"/text_config/hidden_act", "7", "text_config.hidden_act: expected a string, found 7"},
      {"/text_config/architectures", "[1]",
       "text_config.architectures: expected a list of strings"},
      {"/text_config/bos_token_id", "2048", "expected an integer of 0 to 2047, found 2048"},
      {"/text_config/eos_token_id", "[1,2048]", "text_config.eos_token_id[1]"},
      {"/text_config/dense_intermediate_size", "", "dense_intermediate_size: is missing"},
      {"/text_config/rope_scaling", "{\"factor\":2}", "rope_scaling.rope_type: is missing"},
      {"/text_config/sparse_attention_config/sparse_num_index_heads", "3",
       "sparse_num_index_heads: 3 does not divide num_key_value_heads 2"},
      {"/text_config/sparse_attention_config/sparse_index_dim", "8",
       "sparse_index_dim: 8 is smaller than rotary_dim 16"},
      {"/text_config/sparse_attention_config/sparse_local_block", "5",
       "sparse_topk_blocks: 4 is fewer than the 5 blocks that are always selected"},
      {"/vision_config/num_attention_heads", "5", "64 is not a multiple of num_attention_heads 5"},
      {"/vision_config/projection_dim", "100", "vision_config.projection_dim: 100 is not"},
      {"/image_grid_pinpoints", "\"[(1, 2\"", "image_grid_pinpoints: expected a list of pairs"},
      {"/image_grid_pinpoints", "[[1,2],[3]]", "image_grid_pinpoints: entry 1: expected a pair"},
      {"/image_token_index", "2048", "image_token_index: expected an integer of 0 to 2047"},
      {"/quantization_config", "{\"quant_method\":\"fp8\"}",
       "config.json: quantization_config.quant_method: \"fp8\" is not supported (only \"quark\" "
       "is)"},
  };
  for (const auto& c : cases) {
    Json json = tiny();
    const Json::json_pointer pointer(c.pointer);
    if (*c.value == '\0') {
      json.at(pointer.parent_pointer()).erase(pointer.back());
    } else {
      json[pointer] = Json::parse(c.value);
    }
    EXPECT_THAT(error_message([&] { parse_model_config(json); }), HasSubstr(c.expected))
        << c.pointer;
  }
  EXPECT_THAT(error_message([&] { parse_model_config(Json::array()); }),
              HasSubstr("config.json: expected an object, found a list of 0"));
}

TEST(ModelConfig, UnsupportedFeaturesAreNamed) {
  const struct {
    const char* pointer;
    const char* value;
    const char* expected;
  } cases[] = {
      {"/model_type", "\"llama\"", "config.json: model_type: llama is not supported"},
      {"/text_config/hidden_act", "\"silu\"", "text_config.hidden_act: silu is not supported"},
      {"/text_config/attention_output_gate", "true",
       "attention_output_gate: true is not supported"},
      {"/text_config/rope_scaling", "{\"type\":\"yarn\"}", "rope_scaling.rope_type: yarn"},
      {"/text_config/sparse_attention_config/sparse_disable_index_value", "[0,1,0,1,1]",
       "sparse_disable_index_value[2]: 0 is not supported"},
      {"/text_config/sparse_attention_config/sparse_num_index_heads", "1",
       "1 beside num_key_value_heads 2"},
  };
  for (const auto& c : cases) {
    Json json = tiny();
    json[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    const ModelConfig config = parse_model_config(json);
    EXPECT_THAT(error_message([&] { check_supported(config); }), HasSubstr(c.expected));
  }
}

TEST(GenerationConfig, ValuesAndErrors) {
  const GenerationConfig tiny_config = read_generation_config(test::kTinyModel);
  EXPECT_EQ(tiny_config.top_k, 40);
  EXPECT_EQ(tiny_config.top_p, 0.95);
  EXPECT_EQ(tiny_config.do_sample, true);
  EXPECT_THAT(tiny_config.eos_token_id, ElementsAre(2004));
  EXPECT_FALSE(tiny_config.min_p.has_value());
  EXPECT_FALSE(read_generation_config(test::kTinyModel / "absent").temperature.has_value());
  EXPECT_THAT(error_message([] {
                parse_generation_config({{"top_p", 1.5}});
              }),
              HasSubstr("generation_config.json: top_p: expected a number of 0 to 1, found 1.5"));
  EXPECT_THAT(error_message([] {
                parse_generation_config({{"eos_token_id", {1, "x"}}});
              }),
              HasSubstr("generation_config.json: eos_token_id[1]"));
}

TEST(PreprocessorConfig, BothFormsOfSize) {
  const PreprocessorConfig config = read_preprocessor_config(test::kTinyModel);
  ASSERT_TRUE(config.size.has_value());
  EXPECT_THAT(*config.size, ElementsAre(672, 672));
  EXPECT_EQ(config.max_pixels, 451584);
  EXPECT_EQ(config.resample, 3);
  // The released file.
  const PreprocessorConfig released = parse_preprocessor_config(Json::parse(R"({
    "size": [672, 672], "image_std": [0.5, 0.25, 0.125], "img_token_compression_config": {
      "image_token_compression_threshold": 1.1, "image_token_compression_method": "patch_merge",
      "max_image_resolution": 1008, "spatial_merge_size": 3, "temporal_patch_size": 2}})"));
  EXPECT_THAT(*released.size, ElementsAre(672, 672));
  EXPECT_EQ(released.merge_size, 3);
  EXPECT_EQ(released.img_token_compression_config.image_token_compression_threshold, 1.1);
  EXPECT_THAT(released.image_std, ElementsAre(0.5, 0.25, 0.125));
  for (const char* wrong :
       {R"({"size":[1]})", R"({"size":"672"})", R"({"size":{"height":1}})",
        R"({"image_mean":[1,2]})", R"({"image_std":[0,1,1]})", R"({"min_pixels":500000})"}) {
    EXPECT_THAT(error_message([&] { parse_preprocessor_config(Json::parse(wrong)); }),
                HasSubstr("preprocessor_config.json: "))
        << wrong;
  }
}

}  // namespace
}  // namespace quern
