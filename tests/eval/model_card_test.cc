// The card of models/m3-tiny in MXFP4 says what its sources say, and changes when they change.
#include "quern/eval/model_card.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/inspect.h"
#include "quern/eval/python_text.h"
#include "quern/eval/yaml_json.h"
#include "quern/quantize/output_directory.h"
#include "quern/quantize/pipeline.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

using testing::HasSubstr;
using testing::Not;

class ModelCard : public testing::Test {
 protected:
  ModelCard() {
    std::filesystem::copy(test::kTinyModel, folder_ / "tiny");
    std::filesystem::permissions(folder_ / "tiny", std::filesystem::perms::owner_all);
    std::filesystem::remove(folder_ / "tiny" / "README.md");
    QuantizeOptions options;
    options.model_dir = folder_ / "tiny";
    options.output_dir = folder_ / "tiny-MXFP4";
    options.report = false;
    const QuantizePlan plan = make_plan(options);
    prepare_output_directory(options);
    run_plan(plan, options);
    sources_.base = options.model_dir;
    sources_.quantized = options.output_dir;
  }

  std::filesystem::path results(const std::string& name, double value) const {
    const Json file{{"results",
                     {{"arith",
                       {{"alias", "arith"},
                        {"exact_match,strict-match", value},
                        {"exact_match_stderr,strict-match", 0.01}}}}},
                    {"n-shot", {{"arith", 5}}},
                    {"config", {{"model", "quern"}, {"model_args", {{"pretrained", name}}}}},
                    {"chat_template", ""},
                    {"model_name", name}};
    write_file(folder_ / (name + ".json"), file.dump());
    return folder_ / (name + ".json");
  }

  Json metadata(const std::string& card) const {
    const std::size_t end = card.find("\n---\n", 4);
    return parse_yaml(card.substr(4, end - 3), "card");
  }

  test::TempDirectory directory_;
  const std::filesystem::path folder_ = directory_.path();
  CardSources sources_;
};

TEST_F(ModelCard, SaysWhatItsSourcesSay) {
  sources_.results = {results("tiny-MXFP4", 0.90)};
  sources_.base_results = {results("tiny", 0.96)};
  const std::string card = model_card(sources_);
  const Json header = metadata(card);
  EXPECT_EQ(header["base_model"], "tiny");
  EXPECT_EQ(header["base_model_relation"], "quantized");
  EXPECT_EQ(header["pipeline_tag"], "image-text-to-text");
  EXPECT_EQ(header["tags"].dump(), R"(["quantized","quark","mxfp4","minimax_m3_vl"])");
  EXPECT_FALSE(header.contains("license"));  // the base names none
  const Tally total = inspect(Checkpoint::open(sources_.quantized)).total();
  EXPECT_THAT(card, HasSubstr(fmt::format("**Parameters:** {}\n", total.parameters)));
  EXPECT_THAT(card, HasSubstr(fmt::format("{} bytes", total.bytes)));
  EXPECT_THAT(card, HasSubstr("`MiniMaxM3SparseForConditionalGeneration`"));
  EXPECT_THAT(card, HasSubstr("**Weight quantization:** OCP MXFP4, static"));
  EXPECT_THAT(card, HasSubstr("**Activation quantization:** OCP MXFP4, dynamic"));
  EXPECT_THAT(card, HasSubstr("quern quantize --model_dir tiny --output_dir tiny-MXFP4 "
                              "--quant_scheme mxfp4\n"));
  EXPECT_THAT(card, HasSubstr("93.75"));  // 0.90 / 0.96
  EXPECT_THAT(card, HasSubstr("--tasks arith --num_fewshot 5 --apply_chat_template"));
  EXPECT_THAT(card, HasSubstr("quern serve tiny-MXFP4"));
}

TEST_F(ModelCard, FollowsItsSources) {
  EXPECT_THAT(model_card(sources_), Not(HasSubstr("# Evaluation")));
  sources_.results = {results("tiny-MXFP4", 0.48)};
  sources_.base_results = {results("tiny", 0.96)};
  EXPECT_THAT(model_card(sources_), HasSubstr("50"));
  EXPECT_THAT(model_card(sources_), Not(HasSubstr("93.75")));
  write_file(sources_.base / "README.md",
             "---\nlicense: other\nlicense_name: \"x: y\"\n---\n# T\n");
  const Json header = metadata(model_card(sources_));
  EXPECT_EQ(header["license"], "other");
  EXPECT_EQ(header["license_name"], "x: y");
}

TEST_F(ModelCard, NeedsAQuantizedModelAndReadableFiles) {
  std::swap(sources_.base, sources_.quantized);
  EXPECT_THROW(model_card(sources_), Error);
  std::swap(sources_.base, sources_.quantized);
  write_file(sources_.quantized / ".quern_quantize" / "job.json", "[]");
  EXPECT_THROW(model_card(sources_), Error);
  write_file(sources_.quantized / ".quern_quantize" / "job.json",
             R"({"quant_scheme": "mxfp4", "exclude_layers": ["a b'c", "```\n# x"]})");
  EXPECT_THAT(model_card(sources_), HasSubstr(R"(--exclude_layers 'a b'\''c')"));
  EXPECT_THAT(model_card(sources_), HasSubstr("````sh\n"));
  sources_.results = {folder_ / "none.json"};
  EXPECT_THROW(model_card(sources_), Error);
}

}  // namespace
}  // namespace quern
