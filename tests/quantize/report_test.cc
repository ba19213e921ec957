// The report's numbers, against a second computation from the written files.
#include "quern/quantize/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quern/base/file.h"
#include "quern/numerics/mxfp4.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/tensor_class.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(TensorClass, NumbersBecomeN) {
  EXPECT_EQ(tensor_class("model.layers.12.experts.7.w1.weight"),
            "model.layers.N.experts.N.w1.weight");
  EXPECT_EQ(tensor_class("a1.b.2c.3"), "a1.b.2c.N");
  EXPECT_EQ(tensor_class(""), "");
  EXPECT_EQ(number_behind("model.layers.12.experts.7.w1", "experts"), 7);
  EXPECT_EQ(number_behind("model.layers.12.experts.7.w1", "layers"), 12);
  EXPECT_EQ(number_behind("model.layers.w1", "layers"), -1);
  EXPECT_EQ(number_behind("layers", "layers"), -1);
}

TensorRecord record(const std::string& name, double signal, double noise) {
  TensorRecord tensor{name, "mxfp4", 64, 17, WeightStatistics{}};
  tensor.statistics->elements = 32;
  tensor.statistics->clipped = 8;
  tensor.statistics->signal = signal;
  tensor.statistics->noise = noise;
  tensor.statistics->scales[120] = 1;
  return tensor;
}

TEST(Report, ClassesAndOrder) {
  QualityReport report;
  report.add(record("a.layers.0.w.weight", 100, 1));
  report.add(record("a.layers.1.w.weight", 100, 10));
  report.add(record("a.layers.0.v.weight", 1, 0));  // no error at all
  report.add({"b.weight", "other", 64, 32, std::nullopt});
  report.sort();
  ASSERT_EQ(report.classes.size(), 3u);
  const ClassReport& w = report.classes[1];
  EXPECT_EQ(w.name, "a.layers.N.w.weight");
  EXPECT_EQ(w.tensors, 2u);
  EXPECT_EQ(w.source_bytes, 128u);
  EXPECT_NEAR(w.statistics.sqnr_db(), 10 * std::log10(200.0 / 11), 1e-12);
  EXPECT_EQ(w.worst_tensor, "a.layers.1.w.weight");
  EXPECT_NEAR(w.worst_sqnr_db, 10, 1e-12);
  EXPECT_EQ(report.tensors.front().name, "a.layers.1.w.weight");
  EXPECT_EQ(report.tensors.back().name, "b.weight");

  const Json json = quality_json(report);
  EXPECT_TRUE(json["classes"][0]["sqnr_db"].is_null());
  EXPECT_EQ(json["classes"][1]["clipped_share"], 0.25);
  EXPECT_EQ(json["classes"][1]["scale_exponents"].dump(), "[[120,2]]");
  EXPECT_FALSE(json["classes"][2].contains("sqnr_db"));
  EXPECT_EQ(json["tensors"][0]["sqnr_db"], 10.0);
  const std::string table = quality_table(report);
  EXPECT_THAT(table, HasSubstr("2^-7 .. 2^-7 |#|"));
  EXPECT_THAT(table, HasSubstr("25.000%"));
}

TEST(Report, ThePageIsWholeAndSafe) {
  QualityReport report;
  report.add(record("a.layers.0.experts.0.</script><b>.weight", 100, 1));
  report.sort();
  const std::string page = quality_html(report, "</script>");
  EXPECT_THAT(page, HasSubstr("<!doctype html>"));
  EXPECT_THAT(page, HasSubstr(R"(\u003c/script>\u003cb>)"));
  EXPECT_EQ(page.find("QUERN_DATA"), std::string::npos);
  // One script element begins and ends, nothing is loaded from elsewhere.
  EXPECT_EQ(page.find("</script>"), page.rfind("</script>"));
  EXPECT_EQ(page.find("http"), std::string::npos);
  EXPECT_EQ(page.find(" src="), std::string::npos);
}

// What run_plan() reports is what a reader of both files would find.
TEST(Report, EqualsTheFiles) {
  test::TempDirectory directory;
  QuantizeOptions options;
  options.model_dir = fs::path(QUERN_SOURCE_DIR) / "models/m3-tiny";
  options.output_dir = directory / "out";
  options.memory_budget_bytes = 1 << 20;
  const QuantizePlan plan = make_plan(options);
  prepare_output_directory(options);
  const QuantizeReport result = run_plan(plan, options);
  ASSERT_EQ(result.quality.tensors.size(), plan.quantized_tensors);
  std::size_t compared = 0;
  for (const PlannedShard& shard : plan.shards) {
    const SafetensorsFile source(shard.source);
    const SafetensorsFile output(options.output_dir / shard.output_name);
    for (const TensorQuality& tensor : result.quality.tensors) {
      const TensorInfo* info = source.find(tensor.name);
      if (info == nullptr) continue;
      ASSERT_EQ(info->dtype, DType::kBF16);
      const auto bytes_of = [](const SafetensorsFile& file, const std::string& name) {
        const TensorInfo* found = file.find(name);
        return file.data().subspan(found->begin - file.header().data_begin, found->bytes());
      };
      const auto weights = bytes_of(source, tensor.name);
      const auto packed = bytes_of(output, tensor.name);
      const auto scales = bytes_of(output, tensor.name + "_scale");
      std::vector<float> values(weights.size() / 2), restored(values.size());
      bf16_to_float({reinterpret_cast<const BF16*>(weights.data()), values.size()}, values);
      mxfp4_decode_row({reinterpret_cast<const std::uint8_t*>(packed.data()), packed.size()},
                       {reinterpret_cast<const std::uint8_t*>(scales.data()), scales.size()},
                       std::span(restored));
      double signal = 0, noise = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        signal += double{values[i]} * values[i];
        noise += (double{values[i]} - restored[i]) * (double{values[i]} - restored[i]);
      }
      EXPECT_NEAR(tensor.sqnr_db(), 10 * std::log10(signal / noise), 1e-4) << tensor.name;
      ++compared;
    }
  }
  EXPECT_EQ(compared, plan.quantized_tensors);
  EXPECT_TRUE(fs::exists(options.output_dir / "quantize_report.json"));
}

}  // namespace
}  // namespace quern
