// Plan and output directory: decisions, refusals, copied files, bad weights.
#include "quern/quantize/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "quern/base/file.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using test::error_message;
using ::testing::HasSubstr;

void write_shard(const fs::path& path, std::vector<TensorSpec> specs,
                 const std::function<void(const TensorInfo&, std::string&)>& edit = nullptr) {
  SafetensorsWriter writer(path, plan_safetensors(std::move(specs)));
  for (const TensorInfo& info : writer.layout().tensors) {
    std::string data(info.bytes(), '\0');
    if (edit) edit(info, data);
    writer.write(std::as_bytes(std::span(data)));
  }
  writer.commit();
}

constexpr const char* kConfig = R"({"model_type": "minimax_m3_vl", "torch_dtype": "bfloat16"})";

class Pipeline : public ::testing::Test {
 protected:
  Pipeline() {
    fs::create_directories(source());
    write_file(source() / "config.json", kConfig);
    options_.model_dir = source();
    options_.output_dir = output();
    options_.exclude_layers = std::vector<std::string>{"*.excluded"};
  }
  fs::path source() const { return directory_ / "in"; }
  fs::path output() const { return directory_ / "out"; }
  void shard(std::vector<TensorSpec> specs) {
    write_shard(source() / "model.safetensors", std::move(specs));
  }
  void quantize() {
    const QuantizePlan plan = make_plan(options_);
    prepare_output_directory(options_);
    run_plan(plan, options_);
  }
  std::string plan_error() {
    return error_message([&] { make_plan(options_); });
  }

  test::TempDirectory directory_;
  QuantizeOptions options_;
};

TEST_F(Pipeline, DecisionTable) {
  struct {
    const char* name;
    DType dtype;
    Shape shape;
    TensorAction action;
    const char* reason;
  } const rows[] = {
      {"a.w1.weight", DType::kBF16, {4, 64}, TensorAction::kQuantize, "linear weight"},
      {"a.w2.weight", DType::kF32, {2, 4, 32}, TensorAction::kQuantize, "three dimensions count"},
      {"a.excluded.weight", DType::kF32, {4, 64}, TensorAction::kCopy, "excluded keeps its dtype"},
      {"a.w1.bias", DType::kF32, {4, 64}, TensorAction::kCopy, "not called weight"},
      {"weight", DType::kBF16, {4, 64}, TensorAction::kCopy, "no module"},
      {"a.layernorm.weight", DType::kF32, {4, 64}, TensorAction::kCopy, "ends in norm"},
      {"a.embed_tokens.weight", DType::kF32, {4, 64}, TensorAction::kCopy, "embed"},
      {"a.scale.weight", DType::kF32, {64}, TensorAction::kCast, "one dimension, other dtype"},
      {"a.scale2.weight",
       DType::kBF16,
       {64},
       TensorAction::kCopy,
       "one dimension, the model's dtype"},
      {"a.ids.weight", DType::kI64, {64}, TensorAction::kCopy, "not floating point"},
  };
  std::vector<TensorSpec> specs;
  for (const auto& row : rows) specs.push_back({row.name, row.dtype, row.shape});
  shard(specs);
  const QuantizePlan plan = make_plan(options_);
  for (const PlannedTensor& tensor : plan.shards.at(0).tensors) {
    for (const auto& row : rows) {
      if (tensor.source.name != row.name) continue;
      EXPECT_EQ(tensor.action, row.action) << row.reason;
    }
  }
  EXPECT_EQ(plan.quantized_tensors, 2u);
  EXPECT_THAT(plan.config_text, HasSubstr("\"exclude\": [\n            \"a.excluded\"\n        ]"));
  const auto& outputs = plan.shards.at(0).layout.tensors;
  const auto scale = std::find_if(outputs.begin(), outputs.end(), [](const TensorInfo& t) {
    return t.name == "a.w2.weight_scale";
  });
  ASSERT_NE(scale, outputs.end());
  EXPECT_EQ(scale->shape, (Shape{8, 1}));  // leading dimensions flattened
  EXPECT_THAT(plan_text(plan), HasSubstr("quantize"));
  quantize();
  EXPECT_EQ(SafetensorsFile(output() / "model.safetensors").tensors().size(), specs.size() + 2);
}

TEST_F(Pipeline, RefusalsOfThePlan) {
  struct {
    TensorSpec spec;
    const char* config;
    const char* message;
  } const rows[] = {
      {{"a.w.weight", DType::kBF16, {4, 40}}, kConfig, "not a multiple of 32"},
      {{"a.w.weight", DType::kU8, {4, 32}}, kConfig, "tensor 'a.w.weight' U8 [4, 32]"},
      {{"a.w.weight", DType::kF8E4M3, {4, 32}}, kConfig, "expected BF16, F16 or F32"},
      {{"a.excluded.weight", DType::kF8E4M3, {4, 32}}, kConfig, "no conversion"},
      {{"a.w.weight", DType::kBF16, {4, 32}},
       R"({"quantization_config": {"quant_method": "gptq"}})",
       "quant_method: \"gptq\" is not known; known are fp8, mxfp8, compressed-tensors"},
      {{"a.w.weight", DType::kBF16, {4, 32}},
       R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "x"}})",
       "quantization_config.format: \"x\" is not known"},
      {{"a.w.weight", DType::kF8E4M3, {4, 32}},
       R"({"quantization_config": {"quant_method": "fp8"}})",
       "tensor 'a.w.weight' F8_E4M3 [4, 32]: no scale of it is in the checkpoint"},
      {{"a.w.weight", DType::kBF16, {4, 32}},
       R"({"text_config": {"quantization_config": {}}})",
       "has no quant_method"},
      {{"a.w.weight", DType::kBF16, {4, 32}},
       R"({"torch_dtype": "int8"})",
       "torch_dtype: expected"},
      {{"a.w.weight", DType::kBF16, {4, 32}}, "[]", "expected an object"},
  };
  for (const auto& row : rows) {
    shard({row.spec});
    write_file(source() / "config.json", row.config);
    EXPECT_THAT(plan_error(), HasSubstr(row.message));
  }
}

TEST_F(Pipeline, ShardsThatContradictEachOther) {
  EXPECT_THAT(plan_error(), HasSubstr("no *.safetensors file"));
  shard({{"a.w.weight", DType::kBF16, {4, 32}}, {"a.w.weight_scale", DType::kU8, {4, 1}}});
  EXPECT_THAT(plan_error(), HasSubstr("would be written twice"));
  shard({{"a.w.weight", DType::kBF16, {4, 32}}});
  write_file(source() / "model.safetensors.index.json",
             R"({"weight_map": {"a.w.weight": "model.safetensors", "b": "other.safetensors"}})");
  EXPECT_THAT(plan_error(), HasSubstr("tensor 'b' of 'other.safetensors' is in no shard"));
  write_shard(source() / "other.safetensors", {{"a.w.weight", DType::kBF16, {4, 32}}});
  EXPECT_THAT(plan_error(), HasSubstr("tensor 'a.w.weight' is in "));
  fs::create_directories(source() / "sub");
  fs::rename(source() / "other.safetensors", source() / "sub/model.safetensors");
  EXPECT_THAT(plan_error(), HasSubstr("would both be written as 'model.safetensors'"));
}

TEST_F(Pipeline, InfAndNaNAreNamed) {
  struct {
    std::uint16_t bits;
    std::size_t element;
    const char* message;
  } const rows[] = {
      {0x7F80, 0, "holds Inf at index [0, 0]"},
      {0xFFC1, 64 * 3 + 5, "holds NaN at index [3, 5]"},
      {0x7F81, 64 * 4096 - 1, "holds NaN at index [4095, 63]"},
  };
  options_.memory_budget_bytes = 1 << 17;
  for (const auto& row : rows) {
    write_shard(source() / "model.safetensors", {{"a.w.weight", DType::kBF16, {4096, 64}}},
                [&](const TensorInfo&, std::string& data) {
                  std::memcpy(data.data() + 2 * row.element, &row.bits, 2);
                });
    fs::remove_all(output());
    const std::string message = error_message([&] { quantize(); });
    EXPECT_THAT(message, HasSubstr("tensor 'a.w.weight' "));
    EXPECT_THAT(message, HasSubstr(row.message));
    for (const auto& entry : fs::directory_iterator(output())) {
      // No half-written shard, no config.json.
      EXPECT_EQ(entry.path().filename(), Manifest::kDirectory);
    }
  }
}

TEST_F(Pipeline, OutputDirectory) {
  shard({{"a.w.weight", DType::kBF16, {4, 32}}});
  write_file(source() / "tokenizer.json", "{}");
  write_file(source() / ".hidden", "h");
  write_file(source() / "README.md", "r");
  write_file(source() / "NOTES.md", "n");
  fs::create_directories(source() / "sub");
  write_file(source() / "sub/readme.md", "s");
  quantize();
  for (const char* name : {"tokenizer.json", ".hidden", "NOTES.md", "sub/readme.md", "config.json",
                           "model.safetensors.index.json", "model.safetensors"}) {
    EXPECT_TRUE(fs::exists(output() / name)) << name;
  }
  EXPECT_FALSE(fs::exists(output() / "README.md"));
  EXPECT_EQ(fs::last_write_time(output() / "tokenizer.json"),
            fs::last_write_time(source() / "tokenizer.json"));

  fs::remove_all(output() / Manifest::kDirectory);
  EXPECT_THAT(error_message([&] { quantize(); }), HasSubstr("give --overwrite"));
  write_file(output() / "stale.safetensors", "old");
  write_file(output() / "mine.txt", "keep");
  options_.overwrite = true;
  quantize();
  EXPECT_FALSE(fs::exists(output() / "stale.safetensors"));
  EXPECT_TRUE(fs::exists(output() / "mine.txt"));
  for (const fs::path& bad : {source(), source() / "deeper", source().parent_path()}) {
    options_.output_dir = bad;
    EXPECT_THAT(error_message([&] { quantize(); }), HasSubstr("must not be, hold or lie in"));
  }
}

// A Hugging Face cache keeps files elsewhere and links to them. A link to a directory is followed
// only where that ends and stays inside.
TEST_F(Pipeline, LinksOfTheSource) {
  const fs::path blobs = directory_ / "blobs";
  fs::create_directories(blobs / "dir");
  write_shard(blobs / "shard", {{"a.w.weight", DType::kBF16, {4, 32}}});
  write_file(blobs / "tokenizer", "{}");
  write_file(blobs / "dir/private", "p");
  fs::permissions(blobs / "tokenizer", fs::perms::owner_read);
  fs::create_symlink("../blobs/shard", source() / "model.safetensors");
  fs::create_symlink("../blobs/tokenizer", source() / "tokenizer.json");
  fs::create_directories(source() / "a/deep");
  fs::create_directories(source() / "b");
  write_file(source() / "a/deep/file", "f");
  fs::create_directory_symlink("../blobs/dir", source() / "out_of_it");
  fs::create_directory_symlink("..", source() / "a/up");
  fs::create_directory_symlink("../b", source() / "a/to_b");
  fs::create_directory_symlink("../a", source() / "b/to_a");
  fs::create_directory_symlink("deep", source() / "a/same");
  fs::create_symlink("nowhere", source() / "dangling");
  fs::create_symlink("itself", source() / "itself");
  quantize();
  for (const char* name : {"tokenizer.json", "a/deep/file", "a/same/file", "b/to_a/deep/file"}) {
    EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(output() / name))) << name;
  }
  for (const char* name : {"out_of_it", "a/up", "b/to_a/to_b/to_a", "dangling", "itself"}) {
    EXPECT_FALSE(fs::exists(fs::symlink_status(output() / name))) << name;
  }
}

// 2^20 ways to the last directory.
TEST_F(Pipeline, LinksThatMultiplyAreRefused) {
  shard({{"a.w.weight", DType::kBF16, {4, 32}}});
  for (int i = 0; i < 20; ++i) {
    fs::create_directories(source() / fmt::format("{}", i));
    for (const char* name : {"l", "r"}) {
      fs::create_directory_symlink(fmt::format("../{}", i + 1),
                                   source() / fmt::format("{}/{}", i, name));
    }
  }
  fs::create_directories(source() / "20");
  EXPECT_THAT(error_message([&] { quantize(); }), HasSubstr("more than 10000 directories"));
  EXPECT_FALSE(fs::exists(output()));
}

TEST_F(Pipeline, ALinkToAShardThatIsGone) {
  shard({{"a.w.weight", DType::kBF16, {4, 32}}});
  fs::create_symlink("../blobs/gone", source() / "b.safetensors");
  EXPECT_THAT(plan_error(), HasSubstr("b.safetensors' is a link that leads to no file"));
}

// The index and the record of the run are JSON: what it cannot hold is refused before the start.
TEST_F(Pipeline, NamesThatAreNotUtf8) {
  shard({{"a.w.weight", DType::kBF16, {4, 32}}});
  options_.exclude_layers->push_back("x\xFF*");
  EXPECT_THAT(plan_error(), HasSubstr(R"(exclude_layers "x\ufffd*")"));
  options_.exclude_layers->pop_back();
  options_.weight_converters = {{"w1.weight", {"w\xC3.weight"}}};
  EXPECT_THAT(plan_error(), HasSubstr(R"(weight converter "w\ufffd.weight")"));
  options_.weight_converters.clear();
  fs::create_directories(source() / "d\xE9");
  fs::rename(source() / "model.safetensors", source() / "d\xE9/model.safetensors");
  EXPECT_THAT(plan_error(), HasSubstr(R"(file name "d\ufffd/model.safetensors")"));
  fs::rename(source() / "d\xE9/model.safetensors", source() / "mod\xFF.safetensors");
  EXPECT_THAT(plan_error(), HasSubstr(R"(file name "mod\ufffd.safetensors")"));
  // A link is known by its own name, not by its target's.
  const fs::path blob = source().parent_path() / "blob";
  fs::rename(source() / "mod\xFF.safetensors", blob);
  fs::create_symlink(blob, source() / "mod\xFF.safetensors");
  EXPECT_THAT(plan_error(), HasSubstr(R"(file name "mod\ufffd.safetensors")"));
  fs::remove(source() / "mod\xFF.safetensors");
  fs::rename(blob, source() / "modèle.safetensors");
  write_file(source() / "note\xFF", "copied as it is");
  quantize();
  EXPECT_TRUE(fs::exists(output() / "modèle.safetensors"));
  EXPECT_TRUE(fs::exists(output() / "note\xFF"));
}

TEST_F(Pipeline, TensorsWithoutElements) {
  shard({{"a.w.weight", DType::kBF16, {0, 32}}, {"b", DType::kF32, {0}}});
  quantize();
  EXPECT_EQ(SafetensorsFile(output() / "model.safetensors").tensors().size(), 3u);
}

TEST_F(Pipeline, TensorsWithoutColumnsAreRefused) {
  shard({{"a.w.weight", DType::kBF16, {4, 0}}});
  EXPECT_THAT(plan_error(), HasSubstr("a.w.weight"));
  EXPECT_THAT(plan_error(), HasSubstr("no elements"));
}

}  // namespace
}  // namespace quern
