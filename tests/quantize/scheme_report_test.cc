// What the report says of each scheme, against `quern diff` of source and output, which decodes the
// files on its own; and that it does not depend on how tensors are cut.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "quern/base/file.h"
#include "quern/checkpoint/diff.h"
#include "quern/checkpoint/inspect.h"
#include "quern/quantize/pipeline.h"
#include "tests/quantize/scheme_checkpoint.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// The tensors that the scheme takes; returns how many.
std::size_t write_source(const fs::path& directory, const Scheme& scheme) {
  const auto table = test::scheme_tensors();
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> data;
  for (std::size_t t = 0; t < table.size(); ++t) {
    if (!refusal(scheme, table[t].shape).empty()) continue;
    specs.push_back({table[t].name, table[t].dtype, table[t].shape});
    data[table[t].name] = scheme_data(table[t], t);
  }
  const std::size_t count = specs.size();
  SafetensorsWriter writer(directory / "model.safetensors", plan_safetensors(std::move(specs)));
  for (const TensorInfo& tensor : writer.layout().tensors) {
    writer.write(std::as_bytes(std::span(data.at(tensor.name))));
  }
  writer.commit();
  write_file(directory / "config.json", R"({"model_type": "x", "torch_dtype": "bfloat16"})");
  return count;
}

QuantizeReport quantize_with(const fs::path& source, const fs::path& output,
                             std::string_view scheme, std::uint64_t budget) {
  QuantizeOptions options;
  options.model_dir = source;
  options.output_dir = output;
  options.quant_scheme = scheme;
  options.exclude_layers = std::vector<std::string>{};
  options.memory_budget_bytes = budget;
  const QuantizePlan plan = make_plan(options);
  prepare_output_directory(options);
  return run_plan(plan, options);
}

class SchemeReport : public ::testing::TestWithParam<std::string> {};

TEST_P(SchemeReport, SaysWhatDiffFinds) {
  test::TempDirectory directory;
  const fs::path source = directory / "source";
  fs::create_directories(source);
  const std::size_t count = write_source(source, find_scheme(GetParam()));
  const QuantizeReport report = quantize_with(source, directory / "out", GetParam(), 64u << 20);
  ASSERT_EQ(report.quality.tensors.size(), count);
  std::map<std::string, TensorDiff> found;
  for (TensorDiff& diff :
       diff_checkpoints(Checkpoint::open(source), Checkpoint::open(directory / "out"), {})
           .tensors) {
    std::string name = diff.name;
    found.emplace(std::move(name), std::move(diff));
  }
  for (const TensorQuality& tensor : report.quality.tensors) {
    SCOPED_TRACE(tensor.name);
    ASSERT_TRUE(tensor.measured);
    const TensorDiff& diff = found.at(tensor.name);
    if (GetParam().starts_with("uint4")) {  // cannot be decoded without zero points
      EXPECT_EQ(diff.kind, TensorDiff::Kind::kForm);
      continue;
    }
    EXPECT_EQ(diff.kind, TensorDiff::Kind::kQuantized);
    if (std::isfinite(diff.sqnr_db)) {
      // Sums of squares in binary32 by block of MXFP4: 2.1e-6 of them, 1e-5 dB.
      EXPECT_NEAR(tensor.sqnr_db(), diff.sqnr_db, 1e-4);
    } else if (std::signbit(diff.sqnr_db)) {
      // Weights up to 3.39e38: rounded up to 2^128, they are Inf to a reader in binary32.
      EXPECT_TRUE(tensor.name == "model.c.weight" || tensor.name == "model.e.weight");
    } else {
      EXPECT_EQ(tensor.sqnr_db(), diff.sqnr_db);
    }
  }
  const Inspection in = inspect(Checkpoint::open(source));
  const Inspection out = inspect(Checkpoint::open(directory / "out"));
  EXPECT_EQ(out.total().parameters, in.total().parameters);
  // Nothing is left of the scales: they are part of the weights' comparison.
  if (!GetParam().starts_with("uint4")) {
    EXPECT_EQ(found.size(), count);
  }
}

TEST_P(SchemeReport, DoesNotDependOnTheCut) {
  test::TempDirectory directory;
  const fs::path source = directory / "source";
  fs::create_directories(source);
  write_source(source, find_scheme(GetParam()));
  quantize_with(source, directory / "large", GetParam(), 64u << 20);
  quantize_with(source, directory / "small", GetParam(), 16u << 10);
  EXPECT_EQ(read_file(directory / "large/quantize_report.json", 1 << 24),
            read_file(directory / "small/quantize_report.json", 1 << 24));
}

std::vector<std::string> scheme_names() {
  std::vector<std::string> names;
  for (const Scheme& scheme : supported_schemes()) names.emplace_back(scheme.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Schemes, SchemeReport, ::testing::ValuesIn(scheme_names()),
                         [](const auto& param_info) { return param_info.param; });

// Uniform weights in -1..1 have the power 1 / 3, a quantizer of step d the error d^2 / 12: with d =
// 1 / 127.5 (INT8) that is 10 log10(4 * 127.5^2) = 48.1 dB, with d = 1 / 7.5 (INT4) 23.5 dB.
TEST(SchemeReport, IntegersHaveTheTextbookError) {
  test::TempDirectory directory;
  const fs::path source = directory / "source";
  fs::create_directories(source);
  std::vector<float> values(64 * 4096);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(test::splitmix64(i) >> 40) * 0x1p-23f - 1.0f;
  }
  SafetensorsWriter writer(source / "model.safetensors",
                           plan_safetensors({{"m.weight", DType::kF32, {64, 4096}}}));
  writer.write(std::as_bytes(std::span(values)));
  writer.commit();
  write_file(source / "config.json", R"({"model_type": "x"})");
  const auto sqnr = [&](const char* scheme) {
    return quantize_with(source, directory / scheme, scheme, 1u << 20)
        .quality.tensors.at(0)
        .sqnr_db();
  };
  EXPECT_NEAR(sqnr("int8"), 48.1, 0.1);
  EXPECT_NEAR(sqnr("int4_wo_per_channel"), 23.5, 0.2);
}

// Eight rows are packed together: what does not fit the budget is refused before anything is
// written.
TEST(SchemeReport, RowsThatDoNotFitTheBudgetAreRefused) {
  test::TempDirectory directory;
  const fs::path source = directory / "source";
  fs::create_directories(source);
  const std::vector<std::uint16_t> zeros(8 * 65536);
  SafetensorsWriter writer(source / "model.safetensors",
                           plan_safetensors({{"m.weight", DType::kBF16, {8, 65536}}}));
  writer.write(std::as_bytes(std::span(zeros)));
  writer.commit();
  write_file(source / "config.json", R"({"model_type": "x"})");
  const auto error = test::error_message(
      [&] { quantize_with(source, directory / "out", "int4_wo_32", 4u << 20); });
  EXPECT_NE(error.find("tensor 'm.weight' [8, 65536]: int4_wo_32 takes 8 MiB"), std::string::npos)
      << error;
  EXPECT_FALSE(fs::exists(directory / "out"));
  quantize_with(source, directory / "out", "int4_wo_32", 16u << 20);
}

}  // namespace
}  // namespace quern
