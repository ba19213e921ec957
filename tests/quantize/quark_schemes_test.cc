// Each scheme's tensors, files and config are those that AMD Quark wrote
// (tests/golden/quark_schemes.json, made by tools/quark_schemes.py).
#include <gtest/gtest.h>
#include <xxhash.h>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "tests/quantize/quark_golden.h"
#include "tests/quantize/scheme_checkpoint.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

const Json& schemes_golden() {
  static const Json json = test::read_golden("quark_schemes.json");
  return json;
}

// The tensors that Quark took, in one shard; data of each is made once.
void write_source(const fs::path& directory, const Json& refused) {
  static const std::vector<std::string> data = [] {
    std::vector<std::string> made;
    const auto table = test::scheme_tensors();
    for (std::size_t t = 0; t < table.size(); ++t) made.push_back(scheme_data(table[t], t));
    return made;
  }();
  fs::create_directories(directory);
  const auto table = test::scheme_tensors();
  Json header;
  std::string all;
  for (std::size_t t = 0; t < table.size(); ++t) {
    ASSERT_EQ(test::hash_of(data[t]), schemes_golden()["source"][table[t].name].get<std::string>())
        << "the generator differs from tools/quark_schemes.py: " << table[t].name;
    if (refused.contains(table[t].name)) continue;
    header[table[t].name] = {{"dtype", dtype_name(table[t].dtype)},
                             {"shape", table[t].shape},
                             {"data_offsets", {all.size(), all.size() + data[t].size()}}};
    all += data[t];
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  const std::string prefix(reinterpret_cast<const char*>(&length), 8);
  write_file(directory / "model.safetensors", prefix + text + all);
  write_file(directory / "config.json", R"({"model_type": "llama", "torch_dtype": "bfloat16"})");
}

void expect_scheme_golden(const Json& expected, const fs::path& output) {
  const SafetensorsFile file(output / "model.safetensors");
  EXPECT_EQ(file.tensors().size(), expected["tensors"].size());
  for (const auto& [name, row] : expected["tensors"].items()) {
    const TensorInfo* info = file.find(name);
    ASSERT_NE(info, nullptr) << name;
    EXPECT_EQ(dtype_name(info->dtype), row[0].get<std::string>()) << name;
    EXPECT_EQ(info->shape, row[1].get<Shape>()) << name;
    const auto data = file.data().subspan(info->begin - file.header().data_begin, info->bytes());
    EXPECT_EQ(test::hash_of({reinterpret_cast<const char*>(data.data()), data.size()}),
              row[2].get<std::string>())
        << name;
  }
  EXPECT_EQ(test::file_hash(output / "model.safetensors"), expected["shard"].get<std::string>());
  EXPECT_EQ(test::file_hash(output / "model.safetensors.index.json"),
            expected["index"].get<std::string>());
  Json config = parse_json(read_file(output / "config.json", 1 << 20), "config.json");
  config["quantization_config"].erase("version");
  EXPECT_EQ(config["quantization_config"].dump(1), expected["config"].dump(1));
  EXPECT_EQ(test::hash_of(config.dump(4)), expected["config_without_version"].get<std::string>());
}

class QuarkScheme : public ::testing::TestWithParam<std::string> {};

TEST_P(QuarkScheme, IsByteIdentical) {
  const Json& expected = schemes_golden()["schemes"][GetParam()];
  test::TempDirectory directory;
  write_source(directory / "in", expected["refused"]);
  QuantizeOptions options;
  options.model_dir = directory / "in";
  options.output_dir = directory / "out";
  options.quant_scheme = GetParam();
  options.exclude_layers = std::vector<std::string>{};
  options.threads = 3;
  test::quantize(options);
  expect_scheme_golden(expected, directory / "out");
  // Small pieces: cuts in other places, on one thread.
  options.output_dir = directory / "small";
  options.memory_budget_bytes = 16 << 10;
  options.threads = 1;
  test::quantize(options);
  EXPECT_EQ(test::file_hash(directory / "small" / "model.safetensors"),
            expected["shard"].get<std::string>());
}

std::vector<std::string> supported() {
  std::vector<std::string> names;
  for (const Scheme& scheme : supported_schemes()) names.emplace_back(scheme.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Schemes, QuarkScheme, ::testing::ValuesIn(supported()),
                         [](const auto& param_info) { return param_info.param; });

TEST(QuarkSchemes, LayerConfigIsByteIdentical) {
  const Json& expected = schemes_golden()["layer_config"];
  test::TempDirectory directory;
  write_source(directory / "in", expected["refused"]);
  QuantizeOptions options;
  options.model_dir = directory / "in";
  options.output_dir = directory / "out";
  options.exclude_layers = std::vector<std::string>{};
  for (const auto& [pattern, scheme] : expected["patterns"].items()) {
    options.layer_config.push_back(pattern + "=" + scheme.get<std::string>());
  }
  test::quantize(options);
  expect_scheme_golden(expected, directory / "out");
}

// What Quark refuses is refused here too, before anything is written.
TEST(QuarkSchemes, RefusesWhatQuarkRefuses) {
  for (const auto& [name, entry] : schemes_golden()["schemes"].items()) {
    for (const auto& tensor : test::scheme_tensors()) {
      EXPECT_EQ(refusal(find_scheme(name), tensor.shape).empty(),
                !entry["refused"].contains(tensor.name))
          << name << " " << tensor.name;
    }
  }
}

}  // namespace
}  // namespace quern
