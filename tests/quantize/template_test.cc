// Built-in templates and template files.
#include "quern/quantize/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/base/file.h"
#include "quern/quantize/scheme.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

using test::error_message;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Template, BuiltinsOfQuark) {
  EXPECT_EQ(builtin_templates().size(), 51u);
  for (const char* name : {"chatglm",
                           "cohere",
                           "gemma2",
                           "gptj",
                           "instella",
                           "llama",
                           "mistral",
                           "olmo",
                           "opt",
                           "phi",
                           "qwen2",
                           "qwen3",
                           "dbrx",
                           "gemma3_text",
                           "deepseek",
                           "mixtral",
                           "qwen3_moe",
                           "grok-1",
                           "qwen2_moe",
                           "deepseek_v2",
                           "deepseek_v3",
                           "deepseek_v32",
                           "deepseek_vl_v2",
                           "gemma3",
                           "glm4_moe",
                           "glm4_moe_lite",
                           "glm_moe_dsa",
                           "gpt_oss",
                           "granitemoehybrid",
                           "kimi_k2",
                           "kimi_k25",
                           "llama4",
                           "minimax_m2",
                           "mllama",
                           "phi3",
                           "qwen",
                           "qwen3_next",
                           "qwen3_vl_moe",
                           "qwen3_5_moe",
                           "minimax_m3_vl"}) {
    EXPECT_EQ(select_template("", name).model_type, name);
  }
  EXPECT_THAT(select_template("dbrx", "llama").gate_up_layers_name, ElementsAre("w1", "v1"));
  EXPECT_THAT(select_template("", "minimax_m3_vl").exclude_layers_name,
              ElementsAre("*lm_head", "*vision_tower*", "*multi_modal_projector*",
                          "*patch_merge_mlp*", "*block_sparse_moe.gate", "*self_attn*",
                          "*mlp.gate_proj", "*mlp.up_proj", "*mlp.down_proj"));
}

TEST(Template, UnknownNameListsWhatThereIs) {
  EXPECT_THAT(error_message([] { select_template("", "nope"); }),
              HasSubstr("There is no model template defined for the model type 'nope'. Available "
                        "templates: chatglm, cohere"));
}

TEST(Template, File) {
  test::TempDirectory directory;
  const std::string path = directory / "mine.yaml";
  write_file(path, "mine: {exclude_layers_name: ['*head', b]}\n");
  EXPECT_THAT(select_template(path, "other").exclude_layers_name, ElementsAre("*head", "b"));
  write_file(path, "a: {exclude_layers_name: [x]}\nb: {exclude_layers_name: y}\n");
  EXPECT_THAT(select_template(path, "b").exclude_layers_name, ElementsAre("y"));
  EXPECT_THAT(error_message([&] { select_template(path, "c"); }),
              HasSubstr("2 templates, none for"));
}

TEST(Template, MalformedFilesAreErrors) {
  struct {
    const char* text;
    const char* message;
  } const rows[] = {
      {"[1, 2]", "expected a map of templates"},
      {"a: 1", "f: a: expected a map of patterns"},
      {"a: {excluded: [x]}", "f: a.excluded: unknown key"},
      {"a: {exclude_layers_name: {b: c}}", "f: a.exclude_layers_name: expected a list of strings"},
      {"a: {exclude_layers_name: [[x]]}", "expected a list of strings"},
      {"a: {}\na: {}", "stands twice"},
      {"a: [", "f: "},
      {"", "expected a map of templates"},
  };
  for (const auto& row : rows) {
    EXPECT_THAT(error_message([&] { parse_templates(row.text, "f"); }), HasSubstr(row.message))
        << row.text;
  }
  const std::string deep(100000, '[');
  EXPECT_NE(error_message([&] { parse_templates(deep, "f"); }), "");
}

TEST(Scheme, KnownAndUnknown) {
  EXPECT_EQ(find_scheme("mxfp4").activation, ActivationFormat::kMxfp4);
  EXPECT_EQ(find_scheme("mxfp4_weight_only").activation, ActivationFormat::kNone);
  EXPECT_EQ(error_message([] { find_scheme("mxfp5"); }), "Unsupported quantization scheme: mxfp5");
  EXPECT_THAT(error_message([] { find_scheme("mx9"); }),
              HasSubstr("Quark knows the quantization scheme 'mx9', this program does not"));
  EXPECT_EQ(quark_scheme_names().size(), 28u);
  for (const Scheme& scheme : supported_schemes()) {
    EXPECT_EQ(std::ranges::count(quark_scheme_names(), scheme.name), 1) << scheme.name;
  }
  EXPECT_EQ(missing_for_server(find_scheme("mxfp4")), "");
  EXPECT_THAT(missing_for_server(find_scheme("fp8")), HasSubstr("no input_scale"));
}

TEST(Scheme, LayerConfig) {
  const LayerSchemes layers =
      parse_layer_config({"*a=b=ptpc_fp8", "*attn*=int8", "*a=b=mxfp6_e2m3"});
  ASSERT_EQ(layers.size(), 2u);  // a pattern given again keeps its place
  EXPECT_EQ(layers[0].first, "*a=b");
  EXPECT_EQ(layers[0].second->name, "mxfp6_e2m3");
  EXPECT_THAT(error_message([] { parse_layer_config({"int8"}); }), HasSubstr("PATTERN=SCHEME"));
  EXPECT_THAT(error_message([] { parse_layer_config({"*=mx6"}); }), HasSubstr("Quark knows"));
}

TEST(Scheme, OldQuantizationConfigsAreRemovedAtAnyDepth) {
  const Json source = Json::parse(
      R"({"quantization_config": 1, "text_config": {"quantization_config": {}, "a": {"quantization_config": 2}}})");
  const Json result = quantized_config(source, Json{{"new", true}});
  EXPECT_EQ(result.dump(), R"({"text_config":{"a":{}},"quantization_config":{"new":true}})");
}

}  // namespace
}  // namespace quern
