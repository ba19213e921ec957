// Parts of a recipe, and what leaving one of them out gives on models/m3-tiny.
#include "quern/eval/sensitivity.h"

#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/base/file.h"

namespace quern {
namespace {

TEST(Sensitivity, PartsAreKindsThenLayers) {
  const auto parts =
      recipe_parts({"m.layers.1.moe.experts.0.w1.weight", "m.layers.1.moe.experts.1.w2.weight",
                    "m.layers.2.moe.experts.0.w1.weight", "m.head.weight"});
  std::vector<std::string> patterns;
  for (const auto& part : parts) patterns.push_back(part.pattern);
  EXPECT_EQ(patterns,
            (std::vector<std::string>{"m.layers.*.moe.experts.*.w1", "m.layers.*.moe.experts.*.w2",
                                      "m.head", "m.layers.1.*", "m.layers.2.*"}));
  EXPECT_FALSE(parts[2].is_layer);
  EXPECT_TRUE(parts[3].is_layer);
}

TEST(Sensitivity, OfTheTinyModel) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "quern_sensitivity";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder / "scratch");
  write_file(
      folder / "texts.jsonl",
      "{\"messages\": [{\"role\": \"user\", \"content\": \"Question: Kevin has 10 toys. Daniel "
      "has 3 more toys than Kevin. How many toys do they have together?\\nAnswer:\"}, "
      "{\"role\": \"assistant\", \"content\": \"Daniel has 10+3=<<10+3=13>>13 toys.\\n"
      "Together they have 10+13=<<10+13=23>>23 toys.\\n#### 23\"}]}\n");
  SensitivityOptions options;
  options.model_dir = QUERN_SOURCE_DIR "/models/m3-tiny";
  options.data = folder / "texts.jsonl";
  options.extra_bytes = 1'500'000;
  options.scratch_dir = folder / "scratch";
  const Sensitivity found = measure_sensitivity(options);
  EXPECT_GT(found.recipe.kl.value, 0);
  // Three matrices of routed and of shared experts, four MoE layers.
  ASSERT_EQ(found.rows.size(), 6U + 4U);
  std::uint64_t kinds = 0;
  std::uint64_t layers = 0;
  for (std::size_t i = 0; i < found.rows.size(); ++i) {
    const SensitivityRow& row = found.rows[i];
    EXPECT_GT(row.extra_bytes, 0U) << row.pattern;
    EXPECT_DOUBLE_EQ(row.gain, found.recipe.kl.value - row.without.kl.value);
    if (i > 0) {
      EXPECT_LE(row.gain_per_byte(), found.rows[i - 1].gain_per_byte());
    }
    (row.is_layer ? layers : kinds) += row.extra_bytes;
  }
  EXPECT_EQ(kinds, layers);  // both cut the same weights into parts
  ASSERT_FALSE(found.suggested.empty());
  EXPECT_LE(found.with_suggested.bytes - found.recipe.bytes, options.extra_bytes);
  EXPECT_NE(sensitivity_table(found).find("--exclude_layers"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(folder / "scratch"));
  options.data = folder / "none.jsonl";
  EXPECT_THROW(measure_sensitivity(options), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder / "scratch"));
}

}  // namespace
}  // namespace quern
