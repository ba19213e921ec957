// Parts and totals of a checkpoint, and differences between two.
#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "quern/base/file.h"
#include "quern/checkpoint/diff.h"
#include "quern/checkpoint/inspect.h"
#include "quern/numerics/mxfp4.h"
#include "tests/checkpoint/write_tensors.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

using test::bytes_of;
using test::TempDirectory;
using test::TestTensor;
using testing::ElementsAre;
using testing::IsEmpty;
using Kind = TensorDiff::Kind;

void write_checkpoint(const TempDirectory& directory, const std::vector<TestTensor>& tensors,
                      const std::string& config = "{}") {
  write_file(directory / "config.json", config);
  test::write_tensors(directory / "model.safetensors", tensors);
}

CheckpointDiff diff(const TempDirectory& a, const TempDirectory& b,
                    const DiffOptions& options = {}) {
  return diff_checkpoints(Checkpoint::open(a.path()), Checkpoint::open(b.path()), options);
}

TEST(Inspect, TinyModelByPart) {
  const Inspection inspection = inspect(Checkpoint::open(test::kTinyModel));
  const struct {
    ModelPart part;
    std::uint64_t tensors, parameters;
  } cases[] = {
      {ModelPart::kEmbedding, 1, 2048 * 192},
      {ModelPart::kHead, 1, 2048 * 192},
      {ModelPart::kAttention, 5 * 4, 5 * (2 * 256 + 2 * 64) * 192},
      {ModelPart::kIndexer, 4 * 2, 4 * (64 + 32) * 192},
      {ModelPart::kDenseMlp, 3, 3 * 512 * 192},
      {ModelPart::kRoutedExperts, 4 * 16 * 3, 4 * 16 * 3 * 64 * 192},
      {ModelPart::kSharedExperts, 4 * 3, 4 * 3 * 64 * 192},
      {ModelPart::kRouter, 4 * 2, 4 * (16 * 192 + 16)},
      {ModelPart::kNorms, 5 * 2 + 1 + 5 * 2 + 4 * 2, 11 * 192 + 18 * 32},
      {ModelPart::kProjector, 4, 64 * 192 + 192 * 192 + 2 * 192},
      {ModelPart::kMerger, 4, 768 * 192 + 192 * 192 + 2 * 192},
      {ModelPart::kOther, 0, 0},
  };
  for (const auto& c : cases) {
    const Tally tally = inspection.part(c.part);
    EXPECT_EQ(tally.tensors, c.tensors) << part_name(c.part);
    EXPECT_EQ(tally.parameters, c.parameters) << part_name(c.part);
  }
  EXPECT_EQ(inspection.total().tensors, 317U);
  EXPECT_EQ(inspection.total().parameters, 4'700'864U);  // its README
  EXPECT_EQ(inspection.total().bytes, 9'576'960U);       // its index
}

// The weights of a layer [2, 64] in every format that is read; a tensor of scales has none.
TEST(Inspect, PackedWeightsCountAsTheWeightsTheyHold) {
  const auto quark = [](const char* dtype) {
    return fmt::format(
        R"({{"quantization_config": {{"global_quant_config": {{"weight": {{"dtype": "{}"}}}}}}}})",
        dtype);
  };
  const auto zeros = [](const char* name, DType dtype, Shape shape) {
    const auto bytes = static_cast<std::size_t>(num_elements(shape)) * dtype_bytes(dtype);
    return TestTensor{name, dtype, std::move(shape), std::string(bytes, '\0')};
  };
  const struct {
    const char* format;
    std::string config;
    std::vector<TestTensor> tensors;
    std::uint64_t parameters;
  } rows[] = {
      {"MXFP4",
       "{}",
       {zeros("m.weight", DType::kU8, {2, 32}), zeros("m.weight_scale", DType::kU8, {2, 2})},
       128},
      {"MXFP4, scales as F8_E8M0",
       "{}",
       {zeros("m.weight", DType::kU8, {2, 32}), zeros("m.weight_scale", DType::kF8E8M0, {2, 2})},
       128},
      {"MXFP6",
       quark("fp6_e3m2"),
       {zeros("m.weight", DType::kU8, {2, 48}), zeros("m.weight_scale", DType::kU8, {2, 2})},
       128},
      {"NVFP4",
       "{}",
       {zeros("m.weight", DType::kU8, {2, 32}), zeros("m.weight_scale", DType::kF8E4M3, {2, 4}),
        zeros("m.weight_scale_2", DType::kF32, {})},
       128},
      {"FP8 by tensor",
       "{}",
       {zeros("m.weight", DType::kF8E4M3, {2, 64}), zeros("m.weight_scale", DType::kF32, {})},
       128},
      {"FP8 by row",
       "{}",
       {zeros("m.weight", DType::kF8E4M3, {2, 64}), zeros("m.weight_scale", DType::kF32, {2})},
       128},
      {"FP8 by block",
       R"({"quantization_config": {"weight_block_size": [128, 128]}})",
       {zeros("m.weight", DType::kF8E4M3, {2, 64}),
        zeros("m.weight_scale_inv", DType::kF32, {1, 1})},
       128},
      {"INT8",
       "{}",
       {zeros("m.weight", DType::kI8, {2, 64}), zeros("m.weight_scale", DType::kF32, {})},
       128},
      {"INT4 by row",
       quark("int4"),
       {zeros("m.weight", DType::kI32, {2, 8}), zeros("m.weight_scale", DType::kF32, {2})},
       128},
      {"INT4 by group",
       quark("int4"),
       {zeros("m.weight", DType::kI32, {64, 1}), zeros("m.weight_scale", DType::kF32, {2, 2})},
       128},
      {"INT4 of FP8",
       quark("int4"),
       {zeros("m.weight", DType::kI32, {2, 8}), zeros("m.weight_scale", DType::kF32, {}),
        zeros("m.weight_scale_2", DType::kF32, {2})},
       128},
      {"UINT4 by row",
       quark("uint4"),
       {zeros("m.weight", DType::kI32, {2, 8}), zeros("m.weight_scale", DType::kF32, {2})},
       128},
      {"UINT4 by group",
       quark("uint4"),
       {zeros("m.weight", DType::kI32, {64, 1}), zeros("m.weight_scale", DType::kF32, {2, 2})},
       128},
      {"a float and what is called a scale",
       "{}",
       {zeros("gain", DType::kF32, {2}), zeros("gain_scale", DType::kF32, {2})},
       4},
      {"bytes", "{}", {zeros("n.weight", DType::kU8, {3})}, 3},
  };
  for (const auto& row : rows) {
    const TempDirectory directory;
    write_checkpoint(directory, row.tensors, row.config);
    const Tally total = inspect(Checkpoint::open(directory.path())).total();
    EXPECT_EQ(total.parameters, row.parameters) << row.format;
    EXPECT_EQ(total.tensors, row.tensors.size()) << row.format;
  }
}

TEST(Diff, ACheckpointEqualsItself) {
  const Checkpoint tiny = Checkpoint::open(test::kTinyModel);
  const CheckpointDiff same = diff_checkpoints(tiny, tiny, {});
  EXPECT_TRUE(same.identical());
  EXPECT_EQ(same.count(Kind::kIdentical), 317U);
}

TEST(Diff, EveryKindOfDifference) {
  const TempDirectory a;
  const TempDirectory b;
  write_checkpoint(a, {{"same", DType::kU8, {1}, "x"},
                       {"only_a", DType::kU8, {1}, "x"},
                       {"dtype", DType::kF32, {1}, "xxxx"},
                       {"bytes", DType::kU8, {2}, "ab"},
                       {"values", DType::kF32, {3}, bytes_of<float>({3, 0, 4})}});
  write_checkpoint(b, {{"same", DType::kU8, {1}, "x"},
                       {"only_b", DType::kU8, {1}, "x"},
                       {"dtype", DType::kU8, {4}, "xxxx"},
                       {"bytes", DType::kU8, {2}, "ac"},
                       {"values", DType::kF32, {3}, bytes_of<float>({3, 0.5F, 4})}});
  const CheckpointDiff result = diff(a, b);
  EXPECT_FALSE(result.identical());
  std::map<std::string, TensorDiff> by_name;
  for (const TensorDiff& tensor : result.tensors) by_name[tensor.name] = tensor;
  EXPECT_EQ(by_name["same"].kind, Kind::kIdentical);
  EXPECT_EQ(by_name["only_a"].kind, Kind::kOnlyInA);
  EXPECT_EQ(by_name["only_b"].kind, Kind::kOnlyInB);
  EXPECT_EQ(by_name["dtype"].kind, Kind::kForm);
  EXPECT_EQ(by_name["bytes"].kind, Kind::kValues);
  EXPECT_EQ(by_name["values"].kind, Kind::kValues);
  EXPECT_EQ(by_name["values"].max_abs_error, 0.5);
  EXPECT_NEAR(by_name["values"].sqnr_db, 20.0, 1e-12);  // 25 / 0.25
  EXPECT_EQ(result.tensors.size(), 6U);
}

// Longer than one decoded chunk, and with a row that no power of two divides.
TEST(Diff, QuantizedTensorIsComparedAfterDecoding) {
  constexpr std::int64_t kRows = 61;
  constexpr std::int64_t kColumns = 96;
  std::vector<BF16> weights(kRows * kColumns);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = float_to_bf16(std::sin(static_cast<float>(i)) * 0.1F);
  }
  std::vector<std::uint8_t> packed(weights.size() / 2);
  std::vector<std::uint8_t> scales(weights.size() / kMxBlock);
  ASSERT_TRUE(mxfp4_encode_row(weights, packed, scales));
  std::vector<float> decoded(weights.size());
  mxfp4_reference::decode_row(packed, scales, decoded);
  double signal = 0;
  double noise = 0;
  double worst = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double x = bf16_to_float(weights[i]);
    signal += x * x;
    noise += (x - decoded[i]) * (x - decoded[i]);
    worst = std::max(worst, std::abs(x - decoded[i]));
  }
  const TempDirectory a;
  const TempDirectory b;
  write_checkpoint(a, {{"m.weight", DType::kBF16, {kRows, kColumns}, bytes_of(weights)}});
  write_checkpoint(b, {{"m.weight", DType::kU8, {kRows, kColumns / 2}, bytes_of(packed)},
                       {"m.weight_scale", DType::kU8, {kRows, kColumns / 32}, bytes_of(scales)}});
  for (const auto& [first, second] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const CheckpointDiff result = diff(*first, *second);
    ASSERT_EQ(result.tensors.size(), 1U);  // the scale belongs to its weight
    EXPECT_EQ(result.tensors[0].kind, Kind::kQuantized);
    EXPECT_EQ(result.tensors[0].max_abs_error, worst);
  }
  const CheckpointDiff result = diff(a, b);
  EXPECT_NEAR(result.tensors[0].sqnr_db, 10.0 * std::log10(signal / noise), 1e-9);
  EXPECT_GT(result.tensors[0].sqnr_db, 15.0);
  EXPECT_EQ(result.tensors[0].b, "MXFP4 [61, 96]");

  // The same codes with other scales under another name are other weights.
  const TempDirectory c;
  for (std::uint8_t& scale : scales) ++scale;
  write_checkpoint(c,
                   {{"m.weight", DType::kU8, {kRows, kColumns / 2}, bytes_of(packed)},
                    {"m.weight_scale_inv", DType::kU8, {kRows, kColumns / 32}, bytes_of(scales)}});
  const CheckpointDiff other = diff(b, c);
  ASSERT_FALSE(other.tensors.empty());
  EXPECT_NE(other.tensors[0].kind, Kind::kIdentical);
}

TEST(Diff, ValuesThatAreNotFinite) {
  const TempDirectory a;
  const TempDirectory b;
  const float inf = INFINITY;
  write_checkpoint(a, {{"t", DType::kF32, {2}, bytes_of<float>({1, inf})}});
  write_checkpoint(b, {{"t", DType::kF32, {2}, bytes_of<float>({1, NAN})}});
  EXPECT_EQ(diff(a, b).tensors[0].max_abs_error, inf);
}

TEST(Diff, ConfigKeys) {
  const auto keys = [](const char* a, const char* b, std::vector<std::string> ignore = {}) {
    return diff_json(Json::parse(a), Json::parse(b), ignore);
  };
  EXPECT_THAT(keys(R"({"a":1,"b":[1,2]})", R"({"b":[1,2],"a":1})"), IsEmpty());
  EXPECT_THAT(keys(R"({"a":{"x":1},"b":[1,2],"c":0})", R"({"a":{"x":2},"b":[1],"d":0})"),
              ElementsAre("a.x", "b[1]", "c", "d"));
  EXPECT_THAT(
      keys(R"({"q":{"version":"1","versions":1}})", R"({"q":{"version":"2"}})", {"q.version"}),
      ElementsAre("q.versions"));
  EXPECT_THAT(keys(R"({"q":{"x":[1]}})", R"({"q":{"x":[2]}})", {"q"}), IsEmpty());
  const TempDirectory a;
  const TempDirectory b;
  write_checkpoint(a, {{"t", DType::kU8, {1}, "x"}}, R"({"v":1})");
  write_checkpoint(b, {{"t", DType::kU8, {1}, "x"}}, R"({"v":2})");
  EXPECT_FALSE(diff(a, b).identical());
  EXPECT_TRUE(diff(a, b, {.ignore_config_keys = {"v"}, .threads = 1}).identical());
}

}  // namespace
}  // namespace quern
