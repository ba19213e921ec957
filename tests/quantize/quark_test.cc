// The files that this program writes are the files that AMD Quark wrote
// (tests/golden/quark_hashes.json, made by tools/quark_golden.py).
#include <gtest/gtest.h>
#include <xxhash.h>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "tests/quantize/mixed_checkpoint.h"
#include "tests/quantize/quark_golden.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// Shards byte for byte; config.json and the index as values, without the version.
void expect_golden(const Json& expected, const fs::path& output) {
  for (const auto& [name, hash] : expected["shards"].items()) {
    EXPECT_EQ(test::file_hash(output / name), hash.get<std::string>()) << name;
  }
  Json config = parse_json(read_file(output / "config.json", 1 << 20), "config.json");
  EXPECT_TRUE(config["quantization_config"]["version"].is_string());
  config["quantization_config"].erase("version");
  const std::string text = config.dump(4);
  EXPECT_EQ(test::hash_of(text), expected["config_without_version"].get<std::string>());
  EXPECT_EQ(test::file_hash(output / "model.safetensors.index.json"),
            expected["index"].get<std::string>());
}

QuantizeOptions options_for(const fs::path& model, const fs::path& output) {
  QuantizeOptions options;
  options.model_dir = model;
  options.output_dir = output;
  options.threads = 3;
  return options;
}

TEST(Quark, M3TinyIsByteIdentical) {
  test::TempDirectory directory;
  test::quantize(options_for(test::kTinyModel, directory / "out"));
  expect_golden(test::read_golden("quark_hashes.json")["m3-tiny"], directory / "out");
}

TEST(Quark, MixedCheckpointIsByteIdentical) {
  test::TempDirectory directory;
  test::write_mixed_checkpoint(directory / "in", 96, 1024);
  const Json expected = test::read_golden("quark_hashes.json");
  for (const auto& [name, hash] : expected["mixed-small"]["source"].items()) {
    ASSERT_EQ(test::file_hash(directory / "in" / name), hash.get<std::string>())
        << "the generator differs from tools/quark_mixed.py";
  }
  QuantizeOptions options = options_for(directory / "in", directory / "out");
  test::quantize(options);
  expect_golden(expected["mixed-small"], directory / "out");

  // A budget so small that pieces are 4 KiB and scales do not fit: they are made in a second pass.
  options.output_dir = directory / "small";
  options.memory_budget_bytes = 16 << 10;
  test::quantize(options);
  expect_golden(expected["mixed-small"], directory / "small");

  options.output_dir = directory / "weights";
  options.quant_scheme = "mxfp4_weight_only";
  options.threads = 1;
  test::quantize(options);
  expect_golden(expected["mixed-small-weight-only"], directory / "weights");
}

}  // namespace
}  // namespace quern
