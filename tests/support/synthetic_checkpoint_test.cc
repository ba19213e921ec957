// The C++ and Python definitions of the synthetic checkpoint give the same bytes.
#include "tests/support/synthetic_checkpoint.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <bit>
#include <cstring>
#include <memory>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/checkpoint/checkpoint.h"
#include "tests/support/temp_directory.h"

namespace quern::test {
namespace {

class Sha256 {
 public:
  Sha256() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void update(std::span<const std::byte> bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(),
                                                                   &EVP_MD_CTX_free};
};

// `tools/model_synthetic.py --digest`: name NUL dtype NUL d0,d1 NUL bytes of every tensor, in
// order.
std::string digest(const SyntheticConfig& config, const Checkpoint& checkpoint) {
  Sha256 hash;
  for (const SyntheticTensor& tensor : synthetic_tensors(config)) {
    const TensorView& view = checkpoint.get(tensor.name);
    std::string shape;
    for (const std::int64_t n : view.shape)
      shape += fmt::format("{}{}", shape.empty() ? "" : ",", n);
    hash.update(fmt::format("{}{nul}{}{nul}{}{nul}", tensor.name, dtype_name(view.dtype), shape,
                            fmt::arg("nul", '\0')));
    hash.update(view.raw());
  }
  return hash.hex();
}

Json golden(const char* file) {
  const std::string path = std::string(QUERN_SOURCE_DIR) + "/tests/golden/model/" + file;
  return parse_json(read_file(path, 1 << 20), path);
}

TEST(SyntheticCheckpoint, EqualsThePythonDefinition) {
  const TempDirectory directory;
  const SyntheticConfig config;
  write_synthetic_checkpoint(directory.path(), config);
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  const Json expected = golden("synthetic.json").at("sel");
  EXPECT_EQ(digest(config, checkpoint), expected.at("tensors").get<std::string>());
  Sha256 config_hash;
  config_hash.update(read_file(directory / "config.json", 1 << 20));
  EXPECT_EQ(config_hash.hex(), expected.at("config.json").get<std::string>());
}

TEST(SyntheticCheckpoint, PromptIsTheGoldenOne) {
  const SafetensorsFile file(std::string(QUERN_SOURCE_DIR) +
                             "/tests/golden/model/sel.f32.safetensors");
  const TensorInfo* info = file.find("input_ids");
  ASSERT_NE(info, nullptr);
  const TensorView view = file.view(*info);
  const std::vector<std::int64_t> expected(view.as<std::int64_t>(),
                                           view.as<std::int64_t>() + view.size());
  const std::vector<std::int32_t> prompt =
      synthetic_prompt(view.size(), SyntheticConfig{}.vocab_size - 2);
  EXPECT_EQ(std::vector<std::int64_t>(prompt.begin(), prompt.end()), expected);
}

// A piece of a tensor equals the same part of the whole: the writer cuts tensors anywhere.
TEST(SyntheticCheckpoint, PiecesEqualTheWhole) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const SyntheticTensor tensor{"piece", {7, 11}, 0.5f, 0.25f, dtype};
    const std::size_t size = dtype_bytes(dtype);
    std::vector<std::byte> whole(77 * size);
    fill_synthetic(tensor, 3, 0, whole);
    for (const std::size_t begin : {1u, 10u, 76u}) {
      std::vector<std::byte> rest((77 - begin) * size);
      fill_synthetic(tensor, 3, static_cast<std::int64_t>(begin), rest);
      EXPECT_EQ(std::memcmp(rest.data(), whole.data() + begin * size, rest.size()), 0)
          << dtype_name(dtype) << " from " << begin;
    }
  }
}

}  // namespace
}  // namespace quern::test
