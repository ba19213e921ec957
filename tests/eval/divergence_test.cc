// Divergence of models/m3-tiny in MXFP4 from its base: against NumPy, on disk, and hostile records.
#include "quern/eval/divergence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/quantize/output_directory.h"
#include "quern/quantize/pipeline.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

std::filesystem::path quantized_tiny(const test::TempDirectory& folder) {
  QuantizeOptions options;
  options.model_dir = test::kTinyModel;
  options.output_dir = folder / "mxfp4";
  options.report = false;
  const QuantizePlan plan = make_plan(options);
  prepare_output_directory(options);
  run_plan(plan, options);
  return options.output_dir;
}

// "layers.3.sqnr_db", "kl_divergence", "kl_divergence.stderr", "kl_divergence_quantiles.99 %".
double figure(const Json& json, const std::string& name) {
  const std::size_t dot = name.find('.');
  const Json& part = json.at(name.substr(0, dot));
  const std::string rest = dot == std::string::npos ? "" : name.substr(dot + 1);
  if (part.is_array()) {
    const std::size_t next = rest.find('.');
    const Json& value = part.at(std::stoul(rest.substr(0, next))).at(rest.substr(next + 1));
    return value.get<double>();
  }
  if (!part.is_object()) return part.get<double>();
  return part.at(rest.empty() ? "value" : rest).get<double>();
}

// Without rounding of activations both sides compute the same function in another order: float32
// here, float64 there. What that may do to a figure is its spread in the golden file (4 disturbed
// runs); a larger one is as likely in a fifth run as 1 in 5, three times as large very unlikely.
// Where no run moved a figure, float32 sums of some hundred terms remain: 1e-4 of its size.
TEST(DivergenceGolden, EqualsNumPy) {
  const std::string file = QUERN_SOURCE_DIR "/tests/golden/eval/divergence.json";
  const Json golden = parse_json(read_file(file, 1 << 20), file);
  std::vector<ScoredText> texts;
  for (const Json& tokens : golden["texts"])
    texts.push_back({tokens.get<std::vector<std::int32_t>>(), 1});
  const test::TempDirectory folder;
  const LogitModelOptions unrounded{.unrounded_reference = true};
  {
    LogitModel base(test::kTinyModel, unrounded);
    write_base_record(folder / "base.safetensors", base, texts, true);
  }
  const BaseRecord record(folder / "base.safetensors");
  LogitModel quantized(quantized_tiny(folder), unrounded);
  const Json found = divergence_json(measure_divergence(record, quantized, false));
  ASSERT_GT(golden["figures"].size(), 40U);
  for (const auto& [name, expected] : golden["figures"].items()) {
    const auto value = expected["value"].get<double>();
    const double tolerance = 3 * expected["spread"].get<double>() + 1e-4 * std::abs(value) + 1e-9;
    EXPECT_NEAR(figure(found, name), value, tolerance) << name;
  }
  EXPECT_TRUE(found["layers"][0]["sqnr_db"].is_null());  // nothing is quantized before layer 1
}

// The same model: no divergence, whatever the chunks; the rounded CPU back end.
TEST(Divergence, OfAModelFromItself) {
  const test::TempDirectory folder;
  std::vector<ScoredText> texts{{{}, 7}, {{5, 6, 7}, 1}};
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i)
    texts[0].tokens.push_back(static_cast<std::int32_t>(random() % 300));
  LogitModel base(test::kTinyModel);
  write_base_record(folder / "r.safetensors", base, texts, true);
  LogitModel again(test::kTinyModel, {.logits_bytes = 1 << 16});  // few tokens a chunk
  const Divergence found = measure_divergence(BaseRecord(folder / "r.safetensors"), again, false);
  ASSERT_EQ(found.tokens.size(), 293U + 2U);
  for (const TokenDivergence& token : found.tokens) {
    EXPECT_EQ(token.kl, 0);
    EXPECT_EQ(token.token_change, 0);
    EXPECT_TRUE(token.same_choice);
  }
  for (const LayerDivergence& layer : found.layers) {
    EXPECT_EQ(layer.error, 0);
    EXPECT_EQ(layer.equal_experts, layer.experts);
    EXPECT_EQ(layer.equal_blocks, layer.blocks);
  }
}

// Two symbols with logits (0, log 3) and (0, 0): p = (1/4, 3/4), q = (1/2, 1/2).
TEST(Divergence, OfOneTokenByHand) {
  const std::vector<float> base{0, std::log(3.0F)};
  const std::vector<float> quantized{0, 0};
  const TokenDivergence found = token_divergence(base, quantized, 0);
  EXPECT_NEAR(found.kl, 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-7);
  EXPECT_NEAR(found.base_nll, std::log(4.0), 1e-7);
  EXPECT_NEAR(found.quantized_nll, std::log(2.0), 1e-7);
  EXPECT_NEAR(found.token_change, 0.25, 1e-7);
  EXPECT_NEAR(found.choice_change, -0.25, 1e-7);
  EXPECT_FALSE(found.same_choice);  // the first of equal ones
}

TEST(BaseRecord, HostileFiles) {
  const test::TempDirectory folder;
  const auto file = folder / "r.safetensors";
  struct Parts {
    std::vector<std::int32_t> tokens{1, 2, 3, 4};
    std::vector<std::int64_t> ends{2, 4};
    std::vector<std::int64_t> firsts{1, 1};
    std::int64_t rows = 2;
    DType logits = DType::kF32;
    const char* logits_name = "logits";
  };
  const auto write = [&](const Parts& parts) {
    const std::int64_t vocab = 5;
    SafetensorsWriter writer(
        file, plan_safetensors({{"token_ids", DType::kI32, {std::ssize(parts.tokens)}},
                                {"text_ends", DType::kI64, {std::ssize(parts.ends)}},
                                {"first_scored", DType::kI64, {std::ssize(parts.firsts)}},
                                {parts.logits_name, parts.logits, {parts.rows, vocab}}}));
    for (const TensorInfo& tensor : writer.layout().tensors) {
      const std::vector<std::byte> zeros(tensor.bytes());
      std::span<const std::byte> bytes(zeros);
      if (tensor.name == "token_ids") bytes = std::as_bytes(std::span(parts.tokens));
      if (tensor.name == "text_ends") bytes = std::as_bytes(std::span(parts.ends));
      if (tensor.name == "first_scored") bytes = std::as_bytes(std::span(parts.firsts));
      writer.write(bytes);
    }
    writer.commit();
  };
  write({});
  EXPECT_EQ(BaseRecord(file).scored(), 2U);
  const struct {
    Parts parts;
    const char* expected;
  } rows[] = {{{.tokens = {1, 2, 3, 5}}, "outside the vocabulary"},
              {{.tokens = {1, 2, -3, 4}}, "outside the vocabulary"},
              {{.ends = {4, 2}}, "text 1 ends"},
              {{.ends = {2, 5}}, "text 1 ends"},
              {{.ends = {2, 3}}, "is scored from"},
              {{.ends = {4}}, "same size"},
              {{.firsts = {1, 2}}, "is scored from"},
              {{.firsts = {0, 1}}, "is scored from"},
              {{.rows = 3}, "3 logits rows"},
              {{.logits = DType::kI32}, "'logits' is I32"},
              {{.logits_name = "logit"}, "no tensor 'logits'"}};
  for (const auto& row : rows) {
    write(row.parts);
    try {
      const BaseRecord record(file);
      ADD_FAILURE() << row.expected;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(row.expected));
      EXPECT_THAT(error.what(), testing::HasSubstr("r.safetensors"));
    }
  }
  // A record of another model.
  write({});
  LogitModel tiny(test::kTinyModel);
  EXPECT_THROW(measure_divergence(BaseRecord(file), tiny, false), Error);
}

TEST(Texts, RowsAndWindows) {
  const test::TempDirectory folder;
  const PromptTokenizer tokenizer(test::kTinyModel);
  write_file(folder / "rows.jsonl",
             "{\"text\": \"One two three.\"}\n{\"text\": \"\"}\n"
             "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n"
             "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": "
             "\"assistant\", \"content\": \"Bye now\"}]}\n");
  const auto rows = read_texts(folder / "rows.jsonl", tokenizer, {});
  ASSERT_EQ(rows.size(), 3U);  // a row of fewer than two tokens has nothing to score
  const std::span<const std::int32_t> reply(rows[2].tokens);
  const std::string scored =
      tokenizer.tokenizer().decode(reply.subspan(rows[2].first_scored), false);
  EXPECT_NE(scored.find("Bye now"), std::string::npos) << scored;
  EXPECT_EQ(scored.find("Hi"), std::string::npos) << scored;
  EXPECT_EQ(tokenizer.tokenizer().decode(rows[0].tokens, false), "One two three.");
  EXPECT_NE(tokenizer.tokenizer().decode(rows[1].tokens, false).find("Hi"), std::string::npos);
  EXPECT_EQ(read_texts(folder / "rows.jsonl", tokenizer, {.limit = 1}).size(), 1U);
  EXPECT_THROW(read_texts(folder / "rows.jsonl", tokenizer, {.row_template = "{{nothing}}"}),
               Error);
  std::string text;
  for (int i = 0; i < 100; ++i) text += fmt::format("Number {} of many. ", i);
  write_file(folder / "long.txt", text);
  const auto windows = read_texts(folder / "long.txt", tokenizer, {.window = 64});
  ASSERT_GT(windows.size(), 2U);
  for (const ScoredText& window : windows) {
    EXPECT_EQ(window.tokens.size(), 64U);
    EXPECT_EQ(window.first_scored, 32U);
  }
  EXPECT_THROW(read_texts(folder / "long.txt", tokenizer, {.window = 1}), Error);
  write_file(folder / "empty.txt", "");
  EXPECT_THROW(read_texts(folder / "empty.txt", tokenizer, {}), Error);
}

}  // namespace
}  // namespace quern
