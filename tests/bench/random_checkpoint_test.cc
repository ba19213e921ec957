// Random checkpoints: the same bytes everywhere, in the form that quantization writes, loadable.
#include "quern/bench/random_checkpoint.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/stored_values.h"
#include "quern/checkpoint/validate.h"
#include "quern/quantize/output_directory.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/plan.h"
#include "quern/text/chat_template.h"
#include "quern/text/tokenizer.h"
#include "tests/bench/small_checkpoint.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern::bench {
namespace {

std::uint64_t tensor_hash(const std::filesystem::path& directory) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  std::uint64_t hash = 0;
  for (const Checkpoint::Tensor& tensor : checkpoint.tensors()) {
    hash = XXH3_64bits_withSeed(tensor.name.data(), tensor.name.size(), hash);
    hash = XXH3_64bits_withSeed(tensor.view.raw().data(), tensor.view.bytes(), hash);
  }
  return hash;
}

TEST(RandomCheckpoint, SameSeedSameBytes) {
  const test::TempDirectory directory;
  RandomCheckpointOptions options = small_options();
  write_random_checkpoint(directory / "a", options, 1);
  write_random_checkpoint(directory / "b", options, 3);
  options.seed = 2;
  write_random_checkpoint(directory / "c", options, 1);
  // What the first version wrote: measurements of two programs are of the same weights.
  EXPECT_EQ(tensor_hash(directory / "a"), 5424414686055357339U);
  EXPECT_EQ(tensor_hash(directory / "b"), tensor_hash(directory / "a"));
  EXPECT_NE(tensor_hash(directory / "c"), tensor_hash(directory / "a"));
}

std::map<std::string, std::pair<DType, Shape>> layout(const Checkpoint& checkpoint) {
  std::map<std::string, std::pair<DType, Shape>> tensors;
  for (const Checkpoint::Tensor& tensor : checkpoint.tensors())
    tensors[std::string(tensor.name)] = {tensor.view.dtype, tensor.view.shape};
  return tensors;
}

// MXFP4 as written directly and as `quern quantize` makes it of the BF16 form: the same tensors,
// the same quantization_config.
TEST(RandomCheckpoint, HasTheFormThatQuantizeWrites) {
  const test::TempDirectory directory;
  RandomCheckpointOptions options = small_options();
  write_random_checkpoint(directory / "mxfp4", options);
  options.mxfp4 = false;
  write_random_checkpoint(directory / "bf16", options);
  QuantizeOptions quantize;
  quantize.model_dir = directory / "bf16";
  quantize.output_dir = directory / "quantized";
  quantize.report = false;
  const QuantizePlan plan = make_plan(quantize);
  prepare_output_directory(quantize);
  run_plan(plan, quantize);
  const Checkpoint direct = Checkpoint::open(directory / "mxfp4");
  const Checkpoint quantized = Checkpoint::open(directory / "quantized");
  EXPECT_EQ(layout(direct), layout(quantized));
  EXPECT_EQ(direct.config(), quantized.config());
  validate_tensors(parse_model_config(direct.config()), direct);
  std::uint64_t bytes = 0;
  for (const Checkpoint::Tensor& tensor : direct.tensors()) bytes += tensor.view.bytes();
  options.mxfp4 = true;
  EXPECT_EQ(random_checkpoint_bytes(options), bytes);
}

// Outputs have the variance of inputs times gain^2: with n inputs a weight's variance is gain^2 /
// n. The mean square of N values of kurtosis below 3 strays by sqrt(2 / N) at most; five times
// that.
TEST(RandomCheckpoint, WeightsHaveTheVarianceThatKeepsActivationsInRange) {
  const test::TempDirectory directory;
  RandomCheckpointOptions options = small_options();
  options.intermediate_size = 256;
  options.hidden_size = 192;
  write_random_checkpoint(directory / "m", options);
  const Checkpoint checkpoint = Checkpoint::open(directory / "m");
  const std::string layer = "language_model.model.layers.1.";
  const std::pair<std::string, double> kVariances[] = {
      {layer + "block_sparse_moe.experts.3.w1.weight", 1.0 / 192},
      {layer + "block_sparse_moe.experts.3.w2.weight", 0.2 * 0.2 / 256},
      {layer + "self_attn.q_proj.weight", 1.0 / 192},
      {"language_model.model.embed_tokens.weight", 1.0},
  };
  for (const auto& [name, variance] : kVariances) {
    const auto stored = StoredValues::of(checkpoint, name);
    ASSERT_TRUE(stored.has_value()) << name;
    std::vector<float> values(static_cast<std::size_t>(num_elements(stored->shape())));
    stored->read(0, values);
    double squares = 0;
    for (const float value : values) squares += double{value} * double{value};
    const auto count = static_cast<double>(values.size());
    EXPECT_NEAR(squares / count / variance, 1, 5 * std::sqrt(2 / count)) << name;
  }
}

// Pieces of a tensor equal the same part of the whole, also where it ends inside a word.
TEST(RandomCheckpoint, PiecesEqualTheWhole) {
  using Kind = ExpectedTensor::Kind;
  const std::pair<ExpectedTensor, std::size_t> kTensors[] = {
      {{"a.weight", {7, 11}, Kind::kFloat}, 8},
      {{"block_sparse_moe.gate.weight", {7, 11}, Kind::kFloat}, 16},
      {{"a.weight", {7, 11}, Kind::kPackedMxfp4}, 8},
      {{"a.weight_scale", {7, 11}, Kind::kE8M0Scale}, 8},
  };
  for (const auto& [tensor, word] : kTensors) {
    const std::size_t bytes = 77 * (tensor.kind == Kind::kFloat ? word / 4 : 1);
    std::vector<std::byte> whole(bytes), rest(bytes - 3 * word);
    fill_random_tensor(tensor, 5, 0, whole);
    fill_random_tensor(tensor, 5, 3, rest);
    EXPECT_EQ(std::memcmp(rest.data(), whole.data() + 3 * word, rest.size()), 0) << tensor.name;
  }
}

TEST(RandomCheckpoint, NothingLoadableBeforeItIsWhole) {
  const test::TempDirectory directory;
  const auto path = directory / "m";
  EXPECT_THROW(write_random_checkpoint(path, small_options(), 1,
                                       [](std::uint64_t) { throw Error("interrupted"); }),
               Error);
  EXPECT_FALSE(std::filesystem::exists(path / "config.json"));
  write_random_checkpoint(path, small_options());
  EXPECT_EQ(
      test::error_message([&] { write_random_checkpoint(path, small_options()); }),
      "'" + path.string() + "' holds a checkpoint already; choose another directory or remove it");
}

TEST(RandomCheckpoint, ImpossibleSizesAreRefused) {
  const auto refused = [](auto change) {
    RandomCheckpointOptions options = small_options();
    change(options);
    return test::error_message([&] { check_options(options); });
  };
  EXPECT_EQ(refused([](auto& o) { o.num_local_experts = 1; }),
            "num_local_experts must be from 2 to 4096, got 1");
  EXPECT_EQ(refused([](auto& o) { o.vocab_size = 100; }),
            "vocab_size must be from 512 to 16777216, got 100");
  EXPECT_EQ(refused([](auto& o) { o.dense_layers = o.sparse_layers = 0; }),
            "dense_layers + sparse_layers must be from 1 to 1000, got 0");
}

// Any text goes in and comes out, every id has a token, and the chat marks are single ids.
TEST(RandomCheckpoint, TokenizerAndTemplateLoad) {
  const test::TempDirectory directory;
  write_random_checkpoint(directory / "m", small_options());
  const Tokenizer tokenizer = Tokenizer::load(directory / "m");
  EXPECT_EQ(tokenizer.vocab_size(), 512);
  const std::string text = "two words, \n\t\u00e4\u20ac\U0001F600";
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(tokenizer.decode(ids, true), text);
  for (std::int32_t id = 0; id < 512; ++id) EXPECT_NE(tokenizer.token_bytes(id), "") << id;
  EXPECT_EQ(tokenizer.token_bytes(300), " w300");
  const ChatTemplate chat = ChatTemplate::load(directory / "m");
  const std::string prompt =
      chat.render(Json::array({{{"role", "user"}, {"content", "hi"}}}), nullptr, true);
  EXPECT_EQ(prompt, "]~!b[]~b]user\nhi[e~[\n]~b]ai\n");
  const ModelConfig config = read_model_config(directory / "m");
  EXPECT_EQ(config.text_config.bos_token_id, tokenizer.encode("]~!b[").front());
  EXPECT_EQ(config.text_config.eos_token_id.front(), tokenizer.encode("[e~[").front());
}

}  // namespace
}  // namespace quern::bench
