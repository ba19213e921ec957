// The files that this program writes are the files that AMD Quark wrote
// (tests/golden/quark_hashes.json, made by tools/quark_golden.py).
#include <gtest/gtest.h>
#include <xxhash.h>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "tests/quantize/mixed_checkpoint.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

Json golden() {
  const fs::path path = fs::path(QUERN_SOURCE_DIR) / "tests/golden/quark_hashes.json";
  return parse_json(read_file(path, 1 << 20), path.string());
}

std::string hash_of(const fs::path& path) {
  const std::string data = read_file(path, std::size_t{1} << 30);
  return fmt::format("{:016x}", XXH3_64bits(data.data(), data.size()));
}

// Shards byte for byte; config.json and the index as values, without the version.
void expect_golden(const Json& expected, const fs::path& output) {
  for (const auto& [name, hash] : expected["shards"].items()) {
    EXPECT_EQ(hash_of(output / name), hash.get<std::string>()) << name;
  }
  Json config = parse_json(read_file(output / "config.json", 1 << 20), "config.json");
  EXPECT_TRUE(config["quantization_config"]["version"].is_string());
  config["quantization_config"].erase("version");
  const std::string text = config.dump(4);
  EXPECT_EQ(fmt::format("{:016x}", XXH3_64bits(text.data(), text.size())),
            expected["config_without_version"].get<std::string>());
  EXPECT_EQ(hash_of(output / "model.safetensors.index.json"), expected["index"].get<std::string>());
}

QuantizeOptions options_for(const fs::path& model, const fs::path& output) {
  QuantizeOptions options;
  options.model_dir = model;
  options.output_dir = output;
  options.threads = 3;
  return options;
}

void quantize(const QuantizeOptions& options) {
  const QuantizePlan plan = make_plan(options);
  prepare_output_directory(options);
  run_plan(plan, options);
}

TEST(Quark, M3TinyIsByteIdentical) {
  test::TempDirectory directory;
  quantize(options_for(fs::path(QUERN_SOURCE_DIR) / "models/m3-tiny", directory / "out"));
  expect_golden(golden()["m3-tiny"], directory / "out");
}

TEST(Quark, MixedCheckpointIsByteIdentical) {
  test::TempDirectory directory;
  test::write_mixed_checkpoint(directory / "in", 96, 1024);
  const Json expected = golden();
  for (const auto& [name, hash] : expected["mixed-small"]["source"].items()) {
    ASSERT_EQ(hash_of(directory / "in" / name), hash.get<std::string>())
        << "the generator differs from tools/quark_mixed.py";
  }
  QuantizeOptions options = options_for(directory / "in", directory / "out");
  quantize(options);
  expect_golden(expected["mixed-small"], directory / "out");

  // A budget so small that pieces are 4 KiB and scales do not fit: they are made in a second pass.
  options.output_dir = directory / "small";
  options.memory_budget_bytes = 16 << 10;
  quantize(options);
  expect_golden(expected["mixed-small"], directory / "small");

  options.output_dir = directory / "weights";
  options.quant_scheme = "mxfp4_weight_only";
  options.threads = 1;
  quantize(options);
  expect_golden(expected["mixed-small-weight-only"], directory / "weights");
}

}  // namespace
}  // namespace quern
