// --scale_rule and --importance through the plan: the encoder that runs, and refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

using test::error_message;
using ::testing::HasSubstr;

void write_tensor(const std::filesystem::path& path, const std::string& name, Shape shape,
                  std::vector<float> values) {
  SafetensorsWriter writer(path, plan_safetensors({{name, DType::kF32, std::move(shape)}}));
  writer.write(std::as_bytes(std::span(values)));
  writer.commit();
}

class ScaleRuleOption : public ::testing::Test {
 protected:
  ScaleRuleOption() {
    std::filesystem::create_directories(directory_ / "in");
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (float& v : weights_) v = normal(random);
    for (float& v : importance_) v = std::abs(normal(random));
    write_tensor(directory_ / "in/model.safetensors", "a.w.weight", {48, 96}, weights_);
    write_file(directory_ / "in/config.json", "{}");
    options_.model_dir = directory_ / "in";
    options_.exclude_layers = std::vector<std::string>{};
    options_.memory_budget_bytes = 16 << 10;
  }

  void expect_output(std::span<const float> importance) {
    options_.output_dir = directory_ / scale_rule_name(options_.scale_rule);
    const QuantizePlan plan = make_plan(options_);
    prepare_output_directory(options_);
    run_plan(plan, options_);
    std::vector<std::uint8_t> packed(weights_.size() / 2);
    std::vector<std::uint8_t> scales(weights_.size() / 32);
    std::vector<float> spread;
    for (int row = 0; row < 48; ++row) {
      spread.insert(spread.end(), importance.begin(), importance.end());
    }
    ASSERT_TRUE(mxfp4_encode_row_by_rule(options_.scale_rule, weights_, spread, packed, scales));
    const SafetensorsFile file(options_.output_dir / "model.safetensors");
    const auto bytes = [&](const char* name) {
      const TensorView view = file.view(*file.find(name));
      const auto* data = view.as<std::uint8_t>();
      return std::vector<std::uint8_t>(data, data + view.bytes());
    };
    EXPECT_EQ(bytes("a.w.weight"), packed);
    EXPECT_EQ(bytes("a.w.weight_scale"), scales);
  }

  test::TempDirectory directory_;
  std::vector<float> weights_ = std::vector<float>(48 * 96);
  std::vector<float> importance_ = std::vector<float>(96);
  QuantizeOptions options_;
};

TEST_F(ScaleRuleOption, EachRuleIsTheOneOfNumerics) {
  for (const auto rule : {ScaleRule::kEven, ScaleRule::kFloor, ScaleRule::kCeil, ScaleRule::kRceil,
                          ScaleRule::kSearch}) {
    options_.scale_rule = rule;
    expect_output({});
  }
}

TEST_F(ScaleRuleOption, ImportanceWeighsColumns) {
  options_.scale_rule = ScaleRule::kSearch;
  options_.importance_file = directory_ / "importance.safetensors";
  write_tensor(options_.importance_file, "a.w.weight", {96}, importance_);
  expect_output(importance_);

  write_tensor(options_.importance_file, "a.w.weight", {48}, std::vector<float>(48));
  EXPECT_THAT(error_message([&] { make_plan(options_); }), HasSubstr("expected F32 [96]"));
  importance_[7] = -1.0f;
  write_tensor(options_.importance_file, "a.w.weight", {96}, importance_);
  EXPECT_THAT(error_message([&] { make_plan(options_); }), HasSubstr("holds -1 at index 7"));
  options_.scale_rule = ScaleRule::kCeil;
  EXPECT_THAT(error_message([&] { make_plan(options_); }), HasSubstr("needs --scale_rule search"));
  options_.importance_file.clear();
  options_.quant_scheme = "int8";
  EXPECT_THAT(error_message([&] { make_plan(options_); }), HasSubstr("the scheme int8 has none"));
}

}  // namespace
}  // namespace quern
