// Reading and writing of valid safetensors files, byte for byte against the `safetensors` library
// (golden files by tools/safetensors_golden.py).
#include "quern/checkpoint/safetensors.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

#include "quern/base/error.h"
#include "tests/checkpoint/write_tensors.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

using test::error_message;
using test::TempDirectory;
using test::TestTensor;
using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path kGolden =
    std::filesystem::path(QUERN_SOURCE_DIR) / "tests/golden/checkpoint";
constexpr std::size_t kLimit = 1 << 20;

std::vector<std::string> names(const std::vector<TensorInfo>& tensors) {
  std::vector<std::string> all;
  for (const TensorInfo& info : tensors) all.push_back(info.name);
  return all;
}

class GoldenFile : public testing::TestWithParam<const char*> {};

TEST_P(GoldenFile, IsWrittenByteForByteFromAnyOrderOfTensors) {
  const std::filesystem::path golden = kGolden / (std::string(GetParam()) + ".safetensors");
  const SafetensorsFile file(golden);
  std::vector<TestTensor> tensors;
  for (const TensorInfo& info : file.tensors()) {
    const auto raw = file.view(info).raw();
    tensors.push_back({info.name, info.dtype, info.shape,
                       std::string(reinterpret_cast<const char*>(raw.data()), raw.size())});
  }
  const TempDirectory directory;
  std::mt19937 random(20260101);
  for (int round = 0; round < 5; ++round) {
    std::shuffle(tensors.begin(), tensors.end(), random);
    test::write_tensors(directory / "copy.safetensors", tensors);
    EXPECT_EQ(read_file(directory / "copy.safetensors", kLimit), read_file(golden, kLimit));
  }
}

INSTANTIATE_TEST_SUITE_P(Safetensors, GoldenFile,
                         testing::Values("dtypes", "mxfp4", "names", "nothing"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Safetensors, MappedAndPlainReaderAgree) {
  for (const char* name : {"dtypes", "mxfp4", "names", "nothing"}) {
    const std::filesystem::path path = kGolden / (std::string(name) + ".safetensors");
    const SafetensorsFile mapped(path);
    const SafetensorsHeader header = read_safetensors_header(path);
    EXPECT_EQ(header.file_bytes, std::filesystem::file_size(path));
    EXPECT_EQ(header.data_begin, mapped.header_bytes().size());
    ASSERT_EQ(names(header.tensors), names(mapped.tensors()));
    const std::string text = read_file(path, kLimit);
    for (const TensorInfo& info : header.tensors) {
      const TensorInfo* found = mapped.find(info.name);
      ASSERT_NE(found, nullptr);
      const TensorView view = mapped.view(*found);
      EXPECT_EQ(view.dtype, info.dtype);
      EXPECT_EQ(view.shape, info.shape);
      EXPECT_EQ(text.substr(info.begin, info.bytes()),
                std::string(reinterpret_cast<const char*>(view.data), view.bytes()));
    }
  }
}

TEST(Safetensors, KnowsNamesAsPythonWroteThem) {
  const SafetensorsFile file(kGolden / "names.safetensors");
  EXPECT_THAT(names(file.tensors()),
              ElementsAre("größe-重み-🚀", "empty", "scalar", "quote\"back\\slash/",
                          "tab\tnewline\nbell\adel\x7f"));
  EXPECT_EQ(file.view(*file.find("scalar")).size(), 1);
  EXPECT_EQ(file.view(*file.find("empty")).size(), 0);
  EXPECT_EQ(file.find("absent"), nullptr);
}

TEST(Safetensors, KeepsHeaderOrderAndAcceptsMetadataAndAnyDataOrder) {
  const TempDirectory directory;
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"b":{"shape":[2],"dtype":"U8","data_offsets":[1,3]},)"
      R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}  )";
  write_file(directory / "x.safetensors", test::raw_file(json, "xyz"));
  const SafetensorsFile file(directory / "x.safetensors");
  EXPECT_THAT(names(file.tensors()), ElementsAre("b", "a"));
  EXPECT_EQ(static_cast<char>(*file.view(*file.find("b")).data), 'y');
  EXPECT_EQ(static_cast<char>(*file.view(*file.find("a")).data), 'x');
}

TEST(Safetensors, MovedFileKeepsItsNames) {
  SafetensorsFile first(kGolden / "mxfp4.safetensors");
  const SafetensorsFile second(std::move(first));
  ASSERT_NE(second.find("A.upper"), nullptr);
  EXPECT_EQ(second.find("A.upper")->name, "A.upper");
}

TEST(Safetensors, UnalignedDataIsRefusedOnlyWhereItIsMapped) {
  const TempDirectory directory;
  const std::string json = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                           R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  write_file(directory / "x.safetensors", test::raw_file(json, "12345"));
  EXPECT_EQ(read_safetensors_header(directory / "x.safetensors").tensors.size(), 2U);
  EXPECT_THAT(error_message([&] { SafetensorsFile file(directory / "x.safetensors"); }),
              HasSubstr("tensor 'b': F32 data at byte"));
}

TEST(SafetensorsWriter, FileAppearsAtCommitOnly) {
  const TempDirectory directory;
  const std::filesystem::path path = directory / "x.safetensors";
  {
    SafetensorsWriter writer(path, plan_safetensors({{"a", DType::kU8, {4}}}));
    writer.write(std::as_bytes(std::span("ab", 2)));
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  SafetensorsWriter writer(path, plan_safetensors({{"a", DType::kU8, {4}}}));
  writer.write(std::as_bytes(std::span("ab", 2)));
  writer.write(std::as_bytes(std::span("cd", 2)));
  writer.commit();
  const SafetensorsFile file(path);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.data().data()), 4), "abcd");
}

TEST(SafetensorsWriterDeathTest, MissingBytesAreAProgrammingError) {
  const TempDirectory directory;
  SafetensorsWriter writer(directory / "x", plan_safetensors({{"a", DType::kU8, {4}}}));
  EXPECT_DEATH(writer.commit(), "check failed");
}

}  // namespace
}  // namespace quern
