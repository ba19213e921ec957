// Ranks that share a model give the logits and features of one process, bit for bit. The ranks are
// threads here; tests/apps runs the program with processes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>
#include <random>

#include "quern/kernels/factory.h"
#include "quern/model/sharding_cost.h"
#include "quern/model/text_model.h"
#include "quern/model/vision_tower.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/plan.h"
#include "tests/support/error_message.h"
#include "tests/support/synthetic_checkpoint.h"
#include "tests/support/temp_directory.h"
#include "tests/support/thread_communicator.h"

namespace quern::model {
namespace {

using kernels::MoeBackend;
using test::SyntheticConfig;
using test::TempDirectory;
using test::ThreadRanks;

// 4 KV heads, 4 index heads, 8 experts of intermediate 256; blocks are selected from the fourth on.
SyntheticConfig shared_config() {
  SyntheticConfig config;
  config.num_hidden_layers = 3;
  config.intermediate_size = 256;
  config.sparse_topk_blocks = 3;
  config.vocab_size = 512;
  return config;
}

// A step: chunks of sequences by their own number.
struct Step {
  struct Chunk {
    int sequence;
    std::int32_t start;
    std::int32_t count;
  };
  std::vector<Chunk> chunks;
};

// Prompts in chunks beside decoded tokens; sequence 0 goes far beyond the selected blocks.
const std::vector<Step> kSteps = {
    {{{0, 0, 300}, {1, 0, 5}}},
    {{{0, 300, 340}, {1, 5, 1}, {2, 0, 130}}},
    {{{0, 640, 1}, {1, 6, 1}, {2, 130, 1}}},
    {{{0, 641, 1}}},
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Result {
  std::vector<std::vector<float>> logits;  // a step each
  Traffic last_step;
};

Result run_steps(const std::filesystem::path& directory, MoeBackend moe, const Sharding& sharding,
                 Communicator* communicator, int threads) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const ModelConfig config = parse_model_config(checkpoint.config());
  const auto backend = kernels::make_cpu_backend(
      {.num_threads = threads, .moe_backend = moe, .communicator = communicator});
  TextModel model(checkpoint, config, *backend, {600, 8}, sharding);
  const auto cache = backend->create_kv_cache(model.kv_cache_spec(24));
  Result result;
  for (const Step& step : kSteps) {
    std::vector<std::vector<std::int32_t>> tokens, tables;
    std::vector<SequenceChunk> chunks;
    for (const auto& chunk : step.chunks) {
      const auto prompt = test::synthetic_prompt(700, config.text_config.vocab_size - 2,
                                                 static_cast<std::uint64_t>(chunk.sequence));
      tokens.emplace_back(prompt.begin() + chunk.start, prompt.begin() + chunk.start + chunk.count);
      tables.emplace_back();
      for (int b = 0; b < 8; ++b) tables.back().push_back(23 - chunk.sequence * 8 - b);
    }
    for (std::size_t i = 0; i < tokens.size(); ++i)
      chunks.push_back({tokens[i], step.chunks[i].start, tables[i]});
    std::vector<float> logits(
        sharding.rank == 0 ? chunks.size() * static_cast<std::size_t>(model.vocab_size()) : 0);
    const Traffic before = communicator != nullptr ? communicator->traffic() : Traffic{};
    model.forward(chunks, *cache, logits);
    if (communicator != nullptr) {
      const Traffic& now = communicator->traffic();
      result.last_step = {now.operations - before.operations, now.sent_bytes - before.sent_bytes,
                          now.received_bytes - before.received_bytes};
    }
    result.logits.push_back(std::move(logits));
  }
  return result;
}

Result run_shared(const std::filesystem::path& directory, MoeBackend moe, int size,
                  bool expert_parallel) {
  Result first;
  ThreadRanks(size).run([&](Communicator& communicator) {
    Result result =
        run_steps(directory, moe, {communicator.rank(), size, expert_parallel}, &communicator, 1);
    if (communicator.rank() == 0) first = std::move(result);
  });
  return first;
}

void quantize(const std::filesystem::path& from, const std::filesystem::path& to) {
  QuantizeOptions options;
  options.model_dir = from;
  options.output_dir = to;
  prepare_output_directory(options);
  run_plan(make_plan(options), options);
}

TEST(Parallel, LogitsOfSeveralRanksAreThoseOfOne) {
  const TempDirectory directory;
  const SyntheticConfig config = shared_config();
  test::write_synthetic_checkpoint(directory / "bf16", config);
  quantize(directory / "bf16", directory / "mxfp4");
  struct Row {
    const char* model;
    MoeBackend moe;
  };
  for (const Row& row : {Row{"bf16", MoeBackend::kNative}, Row{"mxfp4", MoeBackend::kNative},
                         Row{"mxfp4", MoeBackend::kEmulation}}) {
    const Result alone = run_steps(directory / row.model, row.moe, {}, nullptr, 2);
    ASSERT_TRUE(std::isfinite(alone.logits[0][0]));
    for (const int size : {2, 4, 8}) {
      for (const bool expert_parallel : {false, true}) {
        if (row.moe == MoeBackend::kEmulation && size != 4) continue;  // native covers the sizes
        SCOPED_TRACE(::testing::Message() << row.model << " moe " << static_cast<int>(row.moe)
                                          << " ranks " << size << " ep " << expert_parallel);
        const Result shared = run_shared(directory / row.model, row.moe, size, expert_parallel);
        for (std::size_t i = 0; i < kSteps.size(); ++i)
          EXPECT_TRUE(same_bits(alone.logits[i], shared.logits[i])) << "step " << i;
      }
    }
  }
}

// The last step decodes one token.
TEST(Parallel, BytesOfADecodedTokenFollowTheFormula) {
  constexpr int size = 4;
  const TempDirectory directory;
  test::write_synthetic_checkpoint(directory / "bf16", shared_config());
  quantize(directory / "bf16", directory / "mxfp4");
  for (const char* model : {"bf16", "mxfp4"}) {
    const ModelConfig config = parse_model_config(Checkpoint::open(directory / model).config());
    for (const bool expert_parallel : {false, true}) {
      std::mutex mutex;
      std::int64_t sent = 0;
      std::int64_t operations = 0;
      ThreadRanks(size).run([&](Communicator& communicator) {
        const Traffic one =
            run_steps(directory / model, MoeBackend::kNative,
                      {communicator.rank(), size, expert_parallel}, &communicator, 1)
                .last_step;
        const std::lock_guard lock(mutex);
        operations = static_cast<std::int64_t>(one.operations);
        sent += static_cast<std::int64_t>(one.sent_bytes);
      });
      const TokenTraffic expected = token_traffic(config, {0, size, expert_parallel});
      EXPECT_EQ(sent, expected.sent_bytes) << model << expert_parallel;
      EXPECT_EQ(operations, expected.operations) << model << expert_parallel;
    }
  }
}

vision::ImagePatches random_image(int rows, int cols, std::uint32_t seed) {
  vision::ImagePatches image;
  image.grid_t = 1;
  image.grid_h = rows;
  image.grid_w = cols;
  image.num_tokens = rows * cols / 4;
  image.pixels.resize(static_cast<std::size_t>(rows * cols) * 1176);
  std::mt19937 random(seed);
  for (float& value : image.pixels) value = static_cast<float>(random() % 2000) / 1000.0F - 1.0F;
  return image;
}

std::vector<float> encode(const std::filesystem::path& directory, std::size_t count,
                          const Sharding& sharding, Communicator* communicator) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const ModelConfig config = parse_model_config(checkpoint.config());
  const auto backend = kernels::make_cpu_backend({.num_threads = 1, .communicator = communicator});
  VisionTower tower(checkpoint, config, *backend, {64}, sharding, communicator);
  std::vector<vision::ImagePatches> images;
  std::vector<const vision::ImagePatches*> pointers;
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < count; ++i) {
    images.push_back(random_image(2 * (1 + static_cast<int>(i) % 3),
                                  2 * (1 + static_cast<int>(i)) % 10 + 2,
                                  static_cast<std::uint32_t>(i)));
    tokens += static_cast<std::size_t>(images.back().num_tokens);
  }
  for (const auto& image : images) pointers.push_back(&image);
  std::vector<float> features(tokens * static_cast<std::size_t>(tower.hidden_size()));
  tower.encode(pointers, features);
  return features;
}

TEST(Parallel, FeaturesOfSeveralRanksAreThoseOfOne) {
  const std::filesystem::path tiny = QUERN_SOURCE_DIR "/models/m3-tiny";
  for (const std::size_t images : {1, 2, 7, 8, 9}) {
    const std::vector<float> alone = encode(tiny, images, {}, nullptr);
    for (const bool data : {false, true}) {
      const int size = data && images > 2 ? 8 : 2;
      std::mutex mutex;
      int same = 0;
      ThreadRanks(size).run([&](Communicator& communicator) {
        const auto shared =
            encode(tiny, images, {communicator.rank(), size, false, data}, &communicator);
        const std::lock_guard lock(mutex);
        same += same_bits(alone, shared) ? 1 : 0;
      });
      EXPECT_EQ(same, size) << images << (data ? " data" : " weights");
    }
  }
}

TEST(Parallel, ImagesGoToTheRankWithTheFewestPatches) {
  EXPECT_EQ(distribute_images(std::vector<std::int64_t>{4, 16, 8, 8}, 2),
            (std::vector<int>{0, 0, 1, 1}));
  EXPECT_EQ(distribute_images(std::vector<std::int64_t>{4, 4, 4}, 4), (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(distribute_images({}, 3).empty());
}

}  // namespace
}  // namespace quern::model
