// Quark's quantization_config: which modules are quantized, and what is refused.
#include "quern/checkpoint/quantization_config.h"

#include <gmock/gmock.h>

#include "quern/base/error.h"
#include "tests/support/error_message.h"

namespace quern {
namespace {

using test::error_message;
using testing::HasSubstr;
using Activation = MxScheme::Activation;

Json spec(bool dynamic) {
  return {{"dtype", "fp4"},         {"is_dynamic", dynamic},
          {"qscheme", "per_group"}, {"ch_axis", -1},
          {"group_size", 32},       {"symmetric", nullptr},
          {"scale_format", "e8m0"}, {"scale_calculation_mode", "even"}};
}

Json valid() {
  return {{"global_quant_config",
           {{"input_tensors", spec(true)},
            {"output_tensors", nullptr},
            {"weight", spec(false)},
            {"bias", nullptr}}},
          {"exclude", {"model.lm_head", "re:.*self_attn", "model.a.gate"}},
          {"algo_config", nullptr},
          {"softmax_quant_spec", nullptr},
          {"quant_method", "quark"},
          {"layer_type_quant_config", Json::object()},
          {"layer_quant_config", Json::object()},
          {"kv_cache_quant_config", Json::object()},
          {"kv_cache_post_rope", false},
          {"version", "0.12+x"},
          {"export",
           {{"kv_cache_group", Json::array()},
            {"min_kv_scale", 0.0},
            {"pack_method", "reorder"},
            {"weight_format", "real_quantized"},
            {"weight_merge_groups", nullptr}}}};
}

TEST(QuantizationConfig, AnswersPerModule) {
  Json json = valid();
  json["layer_quant_config"]["*up_proj"] = {{"weight", spec(false)}, {"input_tensors", nullptr}};
  json["layer_quant_config"]["*plain*"] = {{"weight", nullptr}};
  const QuantizationConfig config = QuantizationConfig::parse(json);
  const MxScheme both{Activation::kDynamicMxfp4};
  const MxScheme weight_only{Activation::kNone};
  const struct {
    const char* module;
    std::optional<MxScheme> expected;
    const char* reason;
  } cases[] = {
      {"model.experts.0.w1", both, "global"},
      {"model.lm_head", std::nullopt, "excluded by name"},
      {"model.lm_head.inner", both, "names are compared whole"},
      {"xmodel.lm_head", both, "names are compared whole"},
      {"model.layers.3.self_attn.q_proj", std::nullopt, "regex, anchored at the start only"},
      {"model.a.gate", std::nullopt, "excluded by name"},
      {"model.a.gate_proj", both, "not a prefix"},
      {"model.shared_experts.up_proj", weight_only, "layer config"},
      {"model.plain.down_proj", std::nullopt, "layer config without a weight"},
      {"model.embed_tokens", std::nullopt, "not linear by name"},
      {"model.final_norm", std::nullopt, "not linear by name"},
  };
  for (const auto& c : cases)
    EXPECT_EQ(config.scheme_for(c.module), c.expected) << c.module << c.reason;
  EXPECT_EQ(config.version(), "0.12+x");
}

TEST(QuantizationConfig, UnsupportedConfigurationsAreRefusedWithTheKey) {
  const struct {
    const char* pointer;
    const char* value;
    const char* expected;
  } cases[] = {
      {"/quant_method", "\"gptq\"", "quantization_config.quant_method: \"gptq\" is not supported"},
      {"/quant_method", "null", "quant_method: is missing"},
      {"/export", "null", "quantization_config.export: is missing"},
      {"/export/weight_format", "\"fake_quantized\"", "export.weight_format: \"fake_quantized\""},
      {"/export/kv_cache_group", "[\"*k_proj\"]", "export.kv_cache_group: is not supported"},
      {"/kv_cache_quant_config", "{\"x\":{}}", "kv_cache_quant_config: is not supported"},
      {"/layer_type_quant_config", "{\"Linear\":{}}", "layer_type_quant_config: is not supported"},
      {"/global_quant_config/weight/dtype", "\"fp8_e4m3\"",
       "global_quant_config.weight.dtype: \"fp8_e4m3\" is not supported (only \"fp4\" is)"},
      {"/global_quant_config/weight/group_size", "16", "weight.group_size: 16 is not supported"},
      {"/global_quant_config/weight/scale_format", "\"float32\"",
       "weight.scale_format: \"float32\""},
      {"/global_quant_config/weight/ch_axis", "0", "weight.ch_axis: 0 is not supported"},
      {"/global_quant_config/weight", "[]", "weight: expected an object, found a list of 0"},
      {"/global_quant_config/weight", "null", "input_tensors: is not supported without"},
      {"/global_quant_config/input_tensors/is_dynamic", "false",
       "input_tensors.is_dynamic: expected true"},
      {"/global_quant_config/input_tensors/scale_calculation_mode", "\"floor\"",
       "input_tensors.scale_calculation_mode: \"floor\""},
      {"/global_quant_config/output_tensors", "{\"dtype\":\"fp8\"}",
       "output_tensors: is not supported"},
      {"/exclude", "\"lm_head\"", "exclude: expected a list of strings"},
      {"/exclude", "[\"re:(\"]", "exclude[0]: invalid regular expression '('"},
      {"/layer_quant_config", "{\"a*\":7}", "layer_quant_config.a*: expected an object, found 7"},
  };
  for (const auto& c : cases) {
    Json json = valid();
    json[Json::json_pointer(c.pointer)] = Json::parse(c.value);
    EXPECT_THAT(error_message([&] { QuantizationConfig::parse(json); }), HasSubstr(c.expected));
  }
}

TEST(QuantizationConfig, RunawayRegexIsAnErrorAndNotAHang) {
  Json json = valid();
  json["exclude"] = {"re:(a+)+$"};
  const QuantizationConfig config = QuantizationConfig::parse(json);
  EXPECT_THAT(error_message([&] { config.scheme_for(std::string(64, 'a') + "b"); }),
              HasSubstr("a regular expression failed"));
}

}  // namespace
}  // namespace quern
