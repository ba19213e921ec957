// Quantized sources: what comes of them is what AMD Quark makes of their values
// (tests/golden/quantize_sources, made by tools/quantize_sources.py). Fused experts, kept layers,
// and sources that contradict themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "tests/quantize/quark_golden.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using test::error_message;
using ::testing::HasSubstr;

fs::path golden_directory() { return fs::path(QUERN_SOURCE_DIR) / "tests/golden/quantize_sources"; }

const Json& sources_golden() {
  static const Json json =
      parse_json(read_file(golden_directory() / "golden.json", 1 << 24), "golden.json");
  return json;
}

QuantizeOptions options_for(const fs::path& source, const fs::path& output) {
  QuantizeOptions options;
  options.model_dir = source;
  options.output_dir = output;
  options.exclude_layers = std::vector<std::string>{"*.excluded"};
  options.template_converters = source.filename() == "fused";
  return options;
}

std::map<std::string, Json> tensors_of(const fs::path& directory) {
  std::map<std::string, Json> tensors;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const TensorInfo& info : file.tensors()) {
      const auto data = file.data().subspan(info.begin - file.header().data_begin, info.bytes());
      tensors[info.name] =
          Json::array({std::string(dtype_name(info.dtype)), info.shape,
                       fmt::format("{:016x}", XXH3_64bits(data.data(), data.size()))});
    }
  }
  return tensors;
}

class Source : public ::testing::TestWithParam<std::string> {};

TEST_P(Source, GivesWhatQuarkMakesOfItsValues) {
  test::TempDirectory directory;
  for (const char* scheme : {"mxfp4", "int4_wo_32"}) {
    for (const std::uint64_t budget : {std::uint64_t{16} << 10, std::uint64_t{64} << 20}) {
      QuantizeOptions options = options_for(golden_directory() / GetParam(),
                                            directory / fmt::format("{}{}", scheme, budget));
      options.quant_scheme = scheme;
      options.memory_budget_bytes = budget;
      test::quantize(options);
      const auto tensors = tensors_of(options.output_dir);
      const Json& expected = sources_golden()[GetParam()][scheme];
      EXPECT_EQ(tensors.size(), expected.size());
      for (const auto& [name, row] : expected.items()) {
        ASSERT_TRUE(tensors.contains(name)) << name;
        EXPECT_EQ(tensors.at(name).dump(), row.dump()) << name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sources, Source,
                         ::testing::Values("fused", "fp8", "mxfp8", "quark_mxfp4", "ct_int4_group",
                                           "ct_int4_group_zero", "ct_int3_channel",
                                           "ct_int8_pack_zero", "ct_int_quantized",
                                           "ct_float_tensor", "ct_float_channel",
                                           "ct_naive_group_zero", "ct_mxfp4_pack"),
                         [](const auto& param_info) { return param_info.param; });

TEST(SourceFormats, KeptLayersAreDescribedAsQuarkDoes) {
  test::TempDirectory directory;
  QuantizeOptions options = options_for(golden_directory() / "fp8", directory / "out");
  options.keep_excluded_layers_as_original_model_state = true;
  test::quantize(options);
  const Json config = parse_json(read_file(directory / "out/config.json", 1 << 20), "config.json");
  const Json& expected = sources_golden()["fp8"]["kept"];
  EXPECT_EQ(config["quantization_config"]["exclude"].dump(), expected["exclude"].dump());
  EXPECT_EQ(config["quantization_config"]["layer_quant_config"].dump(1),
            expected["layer_quant_config"].dump(1));
  const auto kept = tensors_of(directory / "out");
  const auto source = tensors_of(golden_directory() / "fp8");
  EXPECT_EQ(kept.at("model.b.excluded.weight"), source.at("model.b.excluded.weight"));
  EXPECT_EQ(kept.at("model.b.excluded.weight_scale"),
            source.at("model.b.excluded.weight_scale_inv"));

  options = options_for(golden_directory() / "ct_int4_group", directory / "ct");
  options.keep_excluded_layers_as_original_model_state = true;
  EXPECT_THAT(error_message([&] { make_plan(options); }), HasSubstr("no words for"));
}

// Headers that do not fit each other are refused by name, before anything is written.
TEST(SourceFormats, Contradictions) {
  struct {
    std::vector<TensorSpec> specs;
    const char* config;
    const char* message;
  } const rows[] = {
      {{{"a.w.weight", DType::kF8E4M3, {64, 64}}, {"a.w.weight_scale_inv", DType::kF32, {3, 1}}},
       R"({"quant_method": "fp8", "weight_block_size": [32, 32]})",
       "'a.w.weight_scale_inv' F32 [3, 1] does not fit the weight 'a.w.weight' [64, 64]: expected "
       "4"},
      {{{"a.w.weight", DType::kF8E4M3, {64, 64}}, {"a.w.weight_scale_inv", DType::kI64, {2, 2}}},
       R"({"quant_method": "fp8", "weight_block_size": [32, 32]})",
       "expected F32, BF16, F16 or E8M0 scales"},
      {{{"a.w.weight", DType::kF8E4M3, {64, 64}}, {"a.w.weight_scale_inv", DType::kF32, {2, 2}}},
       R"({"quant_method": "fp8", "weight_block_size": [0, 32]})",
       "weight_block_size"},
      {{{"a.w.weight", DType::kF8E4M3, {64, 64}}, {"a.w.weight_scale_inv", DType::kF32, {2, 2}}},
       R"({"quant_method": "fp8", "weight_block_size": [32, 32], "presharded_weights": {"*": 48}})",
       "64 rows are not a multiple of the 48 rows of a chunk"},
      {{{"a.w.weight_packed", DType::kI32, {4, 8}}},
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
          {"group_0": {"weights": {"num_bits": 4, "symmetric": true}}}})",
       "'a.w.weight_packed' I32 [4, 8]: no scale"},
      {{{"a.w.weight_packed", DType::kI32, {4, 8}}, {"a.w.weight_scale", DType::kF32, {4, 1}}},
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
          {"group_0": {"weights": {"num_bits": 4, "symmetric": false}}}})",
       "'a.w.weight_zero_point' is missing"},
      {{{"a.w.weight_packed", DType::kI32, {4, 8}}, {"a.w.weight_scale", DType::kF32, {4, 1}}},
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
          {"group_0": {"weights": {"num_bits": 40}}}})",
       "num_bits"},
      {{{"a.w.weight", DType::kU8, {4, 17}}, {"a.w.weight_scale", DType::kU8, {4, 2}}},
       R"({"quant_method": "quark"})",
       "not a form of weights known for quant_method quark"},
  };
  for (const auto& row : rows) {
    test::TempDirectory directory;
    fs::create_directories(directory / "in");
    SafetensorsWriter writer(directory / "in" / "model.safetensors", plan_safetensors(row.specs));
    for (const TensorInfo& info : writer.layout().tensors) {
      writer.write(std::vector<std::byte>(info.bytes()));
    }
    writer.commit();
    write_file(directory / "in" / "config.json",
               fmt::format(R"({{"quantization_config": {}}})", row.config));
    const QuantizeOptions options = options_for(directory / "in", directory / "out");
    EXPECT_THAT(error_message([&] { make_plan(options); }), HasSubstr(row.message)) << row.config;
  }
}

TEST(WeightConverter, FormsThatItRefuses) {
  const auto source = [](Shape shape) {
    const auto bytes = static_cast<std::uint64_t>(num_elements(shape)) * 2;
    return make_plain_source({"f", {"m.w", DType::kBF16, std::move(shape), 0, bytes}});
  };
  using Operation = WeightConverter::Operation;
  struct {
    WeightConverter converter;
    Shape shape;
    const char* message;
  } const rows[] = {
      {{"w", {"a", "b"}, Operation::kSplitFusedExperts, 0}, {4, 8}, "three dimensions"},
      {{"w", {"a", "b"}, Operation::kSplitFusedExperts, 0}, {4, 7, 8}, "is odd"},
      {{"w", {"a", "b"}, Operation::kSplitFusedExperts, 2}, {4, 8, 8}, "axis 2"},
      {{"w", {"a", "b", "c"}, Operation::kSplitFusedExperts, 0}, {4, 8, 8}, "1 or 2 targets"},
      {{"w", {"a"}, Operation::kChunk, 0}, {4, 8}, "two or more"},
      {{"w", {"a", "b"}, Operation::kChunk, 1}, {4, 8, 8}, "first or the last dimension"},
  };
  for (const auto& row : rows) {
    EXPECT_THAT(error_message([&] { convert(row.converter, source(row.shape)); }),
                HasSubstr(row.message));
  }
  // torch.chunk: three of two rows for five; columns are cut out of rows.
  auto parts = convert({"w", {"a", "b", "c"}, Operation::kChunk, 0}, source({5, 4}));
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[2]->shape(), (Shape{1, 4}));
  EXPECT_EQ(parts[2]->input_range(0, {0, 4}), (Range{32, 40}));
  parts = convert({"w", {"a", "b"}, Operation::kChunk, -1}, source({2, 4}));
  const std::vector<std::uint16_t> values = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto bytes = std::as_bytes(std::span(values));
  std::vector<std::byte> scratch;
  const auto cut = parts[1]->read({0, 4}, std::vector{bytes}, scratch);
  const auto* got = reinterpret_cast<const std::uint16_t*>(cut.data());
  EXPECT_EQ(std::vector(got, got + 4), (std::vector<std::uint16_t>{2, 3, 6, 7}));
}

}  // namespace
}  // namespace quern
