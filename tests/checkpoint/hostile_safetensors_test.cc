// Hostile safetensors files: every case is an Error with a text that says what is wrong, from the
// mapped and from the plain reader alike.
#include <gmock/gmock.h>

#include <random>

#include "quern/base/error.h"
#include "quern/checkpoint/safetensors.h"
#include "tests/checkpoint/write_tensors.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

using test::error_message;
using test::raw_file;
using test::TempDirectory;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

struct Case {
  std::string file;
  std::string expected;
};

// A header of one tensor with the given fields, and 8 bytes of data.
std::string one(const std::string& fields) {
  return raw_file("{\"t\":{" + fields + "}}", "12345678");
}

std::vector<Case> cases() {
  const std::string good = R"("dtype":"U8","shape":[8],"data_offsets":[0,8])";
  const std::string tail = R"("data_offsets":[0,8])";
  std::string deep = "{\"t\":";
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  return {
      {"", "0 bytes are too few for a safetensors file"},
      {"1234567", "7 bytes are too few for a safetensors file"},
      {raw_file("{}", "", std::uint64_t{1} << 63),
       "header of 9223372036854775808 bytes, more than the limit"},
      {raw_file("{}", "", ~std::uint64_t{0}),
       "header of 18446744073709551615 bytes, more than the limit"},
      {raw_file("{}", "", 100'000'001),
       "header of 100000001 bytes, more than the limit of 100000000"},
      {raw_file("{}", "", 3), "header of 3 bytes in a file of 10 (is the file truncated?)"},
      {raw_file("", ""), "header: expected '{' as its first byte"},
      {raw_file(" {}", ""), "header: expected '{' as its first byte"},
      {raw_file("[]", ""), "header: expected '{' as its first byte"},
      {raw_file("{", ""), "header: invalid JSON at byte 2"},
      {raw_file("{}x", ""), "header: invalid JSON at byte 3"},
      {raw_file(std::string("{}\0", 3), ""), "header: NUL at byte 2"},
      {raw_file("{\"\xff\":1}", ""), "header: invalid JSON at byte 3"},
      {raw_file(deep, ""), "tensor 't': unknown key 'a'"},
      {raw_file("{}", "x"), "1 bytes behind the last tensor belong to no tensor"},
      {raw_file(R"({"t":1})", ""), "tensor 't': expected an object, found 1"},
      {raw_file(R"({"t":null})", ""), "tensor 't': expected an object, found null"},
      {raw_file(R"({"t":[]})", ""), "tensor 't': expected an object, found an array"},
      {raw_file(R"({"t":{}})", ""), "tensor 't': 'dtype' is missing"},
      {one(R"("dtype":"U8","data_offsets":[0,8])"), "tensor 't': 'shape' is missing"},
      {one(R"("dtype":"U8","shape":[8])"), "tensor 't': 'data_offsets' is missing"},
      {one(good + R"(,"extra":1)"), "tensor 't': unknown key 'extra'"},
      {one(good + R"(,"shape":[8])"), "tensor 't': duplicate key 'shape'"},
      {raw_file("{\"t\":{" + good + "},\"t\":{" + good + "}}", "12345678"),
       "duplicate tensor name 't'"},
      {raw_file("{\"t\":{" + good + "},\"\\u0074\":{" + good + "}}", "12345678"),
       "duplicate tensor name 't'"},
      {one(R"("dtype":"F4_WEIRD","shape":[8],)" + tail), "tensor 't': unknown dtype 'F4_WEIRD'"},
      {one(R"("dtype":7,"shape":[8],)" + tail), "tensor 't': dtype: expected a string, found 7"},
      {one(R"("dtype":"U8","shape":8,)" + tail), "tensor 't': shape: expected a list, found 8"},
      {one(R"("dtype":"U8","shape":{},)" + tail),
       "tensor 't': shape: expected a list, found an object"},
      {one(R"("dtype":"U8","shape":[-8],)" + tail),
       "tensor 't': shape: expected a non-negative integer, found -8"},
      {one(R"("dtype":"U8","shape":[8.0],)" + tail),
       "tensor 't': shape: expected a non-negative integer, found 8.0"},
      {one(R"("dtype":"U8","shape":["8"],)" + tail),
       "tensor 't': shape: expected a non-negative integer, found a string"},
      {one(R"("dtype":"U8","shape":[[8]],)" + tail),
       "tensor 't': shape: expected a non-negative integer, found an array"},
      {one(R"("dtype":"U8","shape":[9223372036854775808],)" + tail),
       "tensor 't': shape: 9223372036854775808 is too large"},
      {one(R"("dtype":"U8","shape":[99999999999999999999999],)" + tail),
       "tensor 't': shape: expected a non-negative integer, found 99999999999999999999999"},
      {one(R"("dtype":"U8","shape":[4294967296,4294967296],)" + tail),
       "tensor 't': shape [4294967296, 4294967296] has more than 2^63 elements"},
      {one(R"("dtype":"F64","shape":[4611686018427387904],)" + tail),
       "tensor 't': shape [4611686018427387904] has more than 2^64 bytes"},
      {one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8],)" +
           tail),
       "tensor 't': shape: more than 32 dimensions"},
      {one(R"("dtype":"U8","shape":[8],"data_offsets":[8])"),
       "tensor 't': data_offsets: expected two numbers, found 1"},
      {one(R"("dtype":"U8","shape":[8],"data_offsets":[0,8,8])"),
       "tensor 't': data_offsets: expected two numbers, found more"},
      {one(R"("dtype":"U8","shape":[8],"data_offsets":[0,-1])"),
       "tensor 't': data_offsets: expected a non-negative integer, found -1"},
      {one(R"("dtype":"U8","shape":[8],"data_offsets":{})"),
       "tensor 't': data_offsets: expected a list, found an object"},
      {one(R"("dtype":"U8","shape":[8],"data_offsets":[8,0])"),
       "tensor 't': data_offsets [8, 0] lie outside the data of 8 bytes"},
      {one(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
       "tensor 't': data_offsets [0, 9] lie outside the data of 8 bytes (is the file truncated?)"},
      {one(R"("dtype":"U8","shape":[8],"data_offsets":[18446744073709551608,18446744073709551615])"),
       "lie outside the data of 8 bytes"},
      {one(R"("dtype":"U8","shape":[7],"data_offsets":[0,8])"),
       "tensor 't': U8 [7] takes 7 bytes, but data_offsets [0, 8] give 8"},
      {one(R"("dtype":"F32","shape":[8],"data_offsets":[0,8])"),
       "tensor 't': F32 [8] takes 32 bytes, but data_offsets [0, 8] give 8"},
      {one(R"("dtype":"U8","shape":[7],"data_offsets":[0,7])"),
       "1 bytes behind the last tensor belong to no tensor"},
      {one(R"("dtype":"U8","shape":[7],"data_offsets":[1,8])"),
       "1 bytes before tensor 't' belong to no tensor (data bytes 0 to 1)"},
      {raw_file(R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
                R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                "12345678"),
       "tensors 'a' and 'b' overlap at data byte 4"},
      {raw_file(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                R"("b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
                "12345678"),
       "overlap at data byte 0"},
      {raw_file(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                "12345678"),
       "1 bytes before tensor 'b' belong to no tensor (data bytes 3 to 4)"},
      {raw_file(R"({"__metadata__":"pt"})", ""),
       "__metadata__: expected an object, found a string"},
      {raw_file(R"({"__metadata__":{"a":1}})", ""),
       "__metadata__: 'a': expected a string, found 1"},
      {raw_file(R"({"__metadata__":{"a":{}}})", ""),
       "__metadata__: 'a': expected a string, found an object"},
      {raw_file(R"({"__metadata__":{"a":["x"]}})", ""),
       "__metadata__: 'a': expected a string, found an array"},
      {raw_file(R"({"__metadata__":{"a":"x","a":"y"}})", ""), "duplicate __metadata__ key 'a'"},
      {raw_file(R"({"__metadata__":{},"__metadata__":{}})", ""),
       "duplicate tensor name '__metadata__'"},
  };
}

TEST(HostileSafetensors, EveryCaseIsAnErrorThatNamesTheFileAndTheFault) {
  const TempDirectory directory;
  const std::filesystem::path path = directory / "bad.safetensors";
  for (const Case& c : cases()) {
    write_file(path, c.file);
    const auto expected = AllOf(StartsWith(path.string() + ": "), HasSubstr(c.expected));
    EXPECT_THAT(error_message([&] { read_safetensors_header(path); }), expected);
    EXPECT_THAT(error_message([&] { SafetensorsFile file(path); }), expected);
  }
}

TEST(HostileSafetensors, AbsentFileAndDirectory) {
  const TempDirectory directory;
  EXPECT_THAT(error_message([&] { read_safetensors_header(directory / "none"); }),
              HasSubstr("No such file"));
  EXPECT_THAT(error_message([&] { SafetensorsFile file(directory / "none"); }),
              HasSubstr("No such file"));
  EXPECT_THAT(error_message([&] { read_safetensors_header(directory.path()); }),
              HasSubstr("not a regular file"));
}

TEST(HostileSafetensors, EveryTruncationIsAnError) {
  const TempDirectory directory;
  const std::filesystem::path golden =
      std::filesystem::path(QUERN_SOURCE_DIR) / "tests/golden/checkpoint/mxfp4.safetensors";
  const std::string whole = read_file(golden, 1 << 20);
  const std::filesystem::path path = directory / "cut.safetensors";
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_file(path, whole.substr(0, size));
    EXPECT_NE(error_message([&] { read_safetensors_header(path); }), "") << size;
  }
}

// Random damage to a valid header: an Error or a valid header, never a crash (the sanitizers watch)
// and never a tensor outside the file.
TEST(HostileSafetensors, RandomDamageNeverEscapesTheFile) {
  const std::filesystem::path golden =
      std::filesystem::path(QUERN_SOURCE_DIR) / "tests/golden/checkpoint/mxfp4.safetensors";
  const std::string whole = read_file(golden, 1 << 20);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, whole.data(), sizeof(header_bytes));
  const std::string header = whole.substr(8, header_bytes);

  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::string alphabet = "{}[]\",:0123456789-.eE \\untFUB\xff\x00";
  int accepted = 0;
  constexpr int kRounds = 20000;
  for (int round = 0; round < kRounds; ++round) {
    std::string damaged = header;
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % damaged.size();
      switch (random() % 4) {
        case 0:
          damaged[at] = static_cast<char>(random());
          break;
        case 1:
          damaged[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          damaged.erase(at, 1 + random() % 8);
          break;
        default:
          damaged.insert(at, damaged.substr(random() % damaged.size(), random() % 16));
          break;
      }
      if (damaged.empty()) damaged = "{";
    }
    const std::uint64_t file_bytes = 8 + damaged.size() + (whole.size() - 8 - header_bytes);
    try {
      const SafetensorsHeader parsed = parse_safetensors_header(damaged, file_bytes);
      ++accepted;
      std::uint64_t total = parsed.data_begin;
      for (const TensorInfo& info : parsed.tensors) {
        ASSERT_LE(parsed.data_begin, info.begin);
        ASSERT_LE(info.begin, info.end);
        ASSERT_LE(info.end, file_bytes);
        total += info.bytes();
      }
      ASSERT_EQ(total, file_bytes);
    } catch (const Error& error) {
      ASSERT_STRNE(error.what(), "");
    }
  }
  EXPECT_LT(accepted, kRounds / 2);
}

// The same on whole files, through the mapped reader, touching every byte of every tensor.
TEST(HostileSafetensors, RandomByteFlipsInAFile) {
  const TempDirectory directory;
  const std::filesystem::path path = directory / "flipped.safetensors";
  const std::string whole = read_file(
      std::filesystem::path(QUERN_SOURCE_DIR) / "tests/golden/checkpoint/dtypes.safetensors",
      1 << 20);
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  unsigned touched = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string flipped = whole;
    const std::size_t at = random() % 1056;  // the length and the header
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << random() % 8));
    write_file(path, flipped);
    try {
      const SafetensorsFile file(path);
      for (const TensorInfo& info : file.tensors()) {
        for (const std::byte b : file.view(info).raw()) touched += static_cast<unsigned>(b);
      }
    } catch (const Error& error) {
      ASSERT_STRNE(error.what(), "");
    }
  }
  EXPECT_GT(touched, 0U);
}

}  // namespace
}  // namespace quern
