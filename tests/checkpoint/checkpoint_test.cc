// Opening of checkpoint directories: index and shards must agree; the content hash.
#include "quern/checkpoint/checkpoint.h"

#include <gmock/gmock.h>

#include "quern/base/error.h"
#include "tests/checkpoint/write_tensors.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

using test::error_message;
using test::TempDirectory;
using testing::HasSubstr;

constexpr const char* kIndex = "model.safetensors.index.json";

// Shards a.safetensors {x, y} and b.safetensors {z}.
void write_two_shards(const std::filesystem::path& directory) {
  write_file(directory / "config.json", "{}");
  test::write_tensors(directory / "a.safetensors",
                      {{"x", DType::kU8, {2}, "xx"}, {"y", DType::kU8, {1}, "y"}});
  test::write_tensors(directory / "b.safetensors", {{"z", DType::kU8, {3}, "zzz"}});
}

std::string open_error(const std::filesystem::path& directory) {
  return error_message([&] { Checkpoint::open(directory); });
}

TEST(Checkpoint, OpensTheTinyModel) {
  const Checkpoint checkpoint = Checkpoint::open(test::kTinyModel);
  EXPECT_EQ(checkpoint.tensors().size(), 317U);
  EXPECT_EQ(checkpoint.shards().size(), 2U);
  const TensorView& head = checkpoint.get("language_model.lm_head.weight");
  EXPECT_EQ(head.dtype, DType::kBF16);
  EXPECT_EQ(head.shape, (Shape{2048, 192}));
  EXPECT_EQ(checkpoint.shard_of("language_model.lm_head.weight").filename(),
            "model-00001-of-00002.safetensors");
  EXPECT_EQ(checkpoint.find("absent"), nullptr);
  EXPECT_EQ(error_message([&] { checkpoint.get("absent"); }),
            "'" + test::kTinyModel.string() + "' has no tensor 'absent'");
}

TEST(Checkpoint, WithoutIndexTakesEveryShardOrTheSingleFile) {
  const TempDirectory directory;
  write_two_shards(directory.path());
  EXPECT_EQ(Checkpoint::open(directory.path()).tensors().size(), 3U);
  test::write_tensors(directory / "model.safetensors", {{"x", DType::kU8, {1}, "x"}});
  EXPECT_EQ(Checkpoint::open(directory.path()).tensors().size(), 1U);
}

TEST(Checkpoint, FaultyDirectoriesAreRefused) {
  const TempDirectory directory;
  EXPECT_THAT(open_error(directory / "none"), HasSubstr("is not a directory"));
  EXPECT_THAT(open_error(directory.path()), HasSubstr("config.json"));
  write_file(directory / "config.json", "{}");
  EXPECT_THAT(open_error(directory.path()), HasSubstr("holds no *.safetensors file"));
  write_two_shards(directory.path());
  test::write_tensors(directory / "c.safetensors", {{"z", DType::kU8, {1}, "z"}});
  EXPECT_THAT(open_error(directory.path()), HasSubstr("tensor 'z' is in both "));
}

TEST(Checkpoint, FaultyIndexesAreRefused) {
  const struct {
    const char* index;
    const char* expected;
  } cases[] = {
      {R"({"weight_map":{"x":"a.safetensors","z":"c.safetensors"}})",
       "names 'c.safetensors', which does not exist"},
      {R"({"weight_map":{"x":"a.safetensors","w":"b.safetensors"}})",
       "says that tensor 'w' is in 'b"},
      {R"({"weight_map":{"x":"b.safetensors"}})", "says that tensor 'x' is in 'b.safetensors'"},
      {R"({"weight_map":{"x":"a.safetensors","x":"a.safetensors"}})", "duplicate tensor name 'x'"},
      {R"({"weight_map":{"x":"../a.safetensors"}})", "is not a file name inside the directory"},
      {R"({"weight_map":{"x":"/etc/passwd"}})", "is not a file name inside the directory"},
      {R"({"weight_map":{"x":""}})", "is not a file name inside the directory"},
      {R"({"weight_map":{"x":1}})", "weight_map: 'x': expected a file name, found a number"},
      {R"({"weight_map":{"x":{}}})", "weight_map: 'x': expected a file name, found an object"},
      {R"({"weight_map":{"x":[]}})", "weight_map: 'x': expected a file name, found an array"},
      {R"({"weight_map":[]})", "weight_map: expected an object, found an array"},
      {R"({"weight_map":null})", "weight_map: expected an object, found null"},
      {R"({"weight_map":{}})", "weight_map is empty"},
      {R"({"weight_map":{},"weight_map":{}})", "duplicate key 'weight_map'"},
      {R"({"metadata":{"weight_map":{"x":"a.safetensors"}}})", "'weight_map' is missing"},
      {R"([])", "expected a JSON object, found an array"},
      {R"("x")", "expected a JSON object, found a string"},
      {R"({"weight_map":)", "invalid JSON at byte"},
      {R"({"a":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]})", "nested deeper than 16 levels"},
  };
  const TempDirectory directory;
  write_two_shards(directory.path());
  for (const auto& c : cases) {
    write_file(directory / kIndex, c.index);
    EXPECT_THAT(open_error(directory.path()), HasSubstr(c.expected)) << c.index;
  }
  // total_size is wrong in the released model, so it must not matter.
  write_file(
      directory / kIndex,
      R"({"metadata":{"total_size":1e99},"weight_map":{"z":"b.safetensors","x":"a.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(directory.path()).tensors().size(), 3U);
}

TEST(Checkpoint, ContentHashFollowsContentAndNothingElse) {
  const TempDirectory one;
  const TempDirectory two;
  write_two_shards(one.path());
  write_two_shards(two.path());
  const auto hash = [](const TempDirectory& d) {
    return Checkpoint::open(d.path()).content_hash();
  };
  const std::string original = hash(one);
  EXPECT_EQ(original.size(), 32U);
  EXPECT_EQ(hash(two), original);
  test::write_tensors(two / "b.safetensors", {{"z", DType::kU8, {3}, "zzy"}});
  EXPECT_NE(hash(two), original);
  write_two_shards(two.path());
  write_file(two / "config.json", "{ }");
  EXPECT_NE(hash(two), original);
}

}  // namespace
}  // namespace quern
