// A model that is a hash: the logits are a function of all tokens before them, which it reads back
// from its own paged store through the block table. A wrong table, a block shared by mistake or
// given away too early, a skipped token, or features of another image or place change them.
// Must never look at anything but its chunks and its store.
// Proved by tests/engine/engine_loop_test.cc (FakeRunner).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "quern/engine/request.h"

#include "quern/engine/step_runner.h"

namespace quern::engine::test {

class FakeRunner : public StepRunner {
 public:
  FakeRunner(int num_blocks, int vocab_size)
      : vocab_size_(vocab_size),
        store_(static_cast<std::size_t>(num_blocks) * kernels::kBlockTokens) {}

  int vocab_size() const override { return vocab_size_; }
  std::size_t feature_size() const override { return kFeatureSize; }

  void encode(std::span<const vision::ImagePatches* const> images,
              std::span<float> features) override {
    for (const vision::ImagePatches* image : images) {
      ++encoded;
      for (int row = 0; row < image->num_tokens; ++row) {
        const std::uint64_t hash = feature_hash(*image, row);
        for (std::size_t i = 0; i < kFeatureSize; ++i)  // 16 bits each
          features[i] = static_cast<float>(hash >> (16 * i) & 0xFFFF);
        features = features.subspan(kFeatureSize);
      }
    }
  }

  void run(std::span<const model::SequenceChunk> chunks, std::span<float> logits) override {
    if (before_step) before_step(chunks);
    for (const auto& chunk : chunks) write(chunk);
    states_.clear();
    for (const auto& chunk : chunks) {
      for (std::size_t n = 1; n <= chunk.token_ids.size(); ++n) {
        states_.push_back(read(chunk, static_cast<std::size_t>(chunk.start_position) + n));
      }
    }
    std::size_t row = 0;
    for (const auto& chunk : chunks) {
      if (!chunk.wants_logits) continue;
      fill(read(chunk), logits.subspan(row++ * static_cast<std::size_t>(vocab_size_),
                                       static_cast<std::size_t>(vocab_size_)));
    }
  }

  void logits_of(std::span<const std::int32_t> tokens, std::span<float> logits) override {
    const auto width = static_cast<std::size_t>(vocab_size_);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      fill(states_.at(static_cast<std::size_t>(tokens[i])), logits.subspan(i * width, width));
    }
  }

  // The logits after `tokens`, without any store.
  std::vector<float> expected_logits(std::span<const std::int32_t> tokens,
                                     std::span<const ImageInput> images = {}) const {
    std::vector<std::uint64_t> entries;
    for (std::size_t i = 0; i < tokens.size(); ++i) entries.push_back(entry(i, tokens[i]));
    for (const ImageInput& image : images) {
      for (int row = 0; row < image.num_tokens; ++row) {
        const auto at = static_cast<std::size_t>(image.offset + row);
        if (at >= tokens.size()) continue;
        entries[at] = image_entry(at, feature_hash(*image.patches, image.first_row + row));
      }
    }
    std::uint64_t state = 0;
    for (const std::uint64_t value : entries) state = mix(state ^ value);
    std::vector<float> logits(static_cast<std::size_t>(vocab_size_));
    fill(state, logits);
    return logits;
  }

  std::function<void(std::span<const model::SequenceChunk>)> before_step;
  std::atomic<int> encoded{0};  // images

 private:
  static constexpr std::size_t kFeatureSize = 4;

  static std::uint64_t feature_hash(const vision::ImagePatches& patches, int row) {
    std::uint64_t state = static_cast<std::uint64_t>(row);
    for (const float value : patches.pixels) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      state = mix(state ^ bits);
    }
    return state;
  }
  static std::uint64_t image_entry(std::size_t position, std::uint64_t hash) {
    return mix(hash ^ mix(position + 1));
  }
  static std::uint64_t mix(std::uint64_t x) {  // splitmix64
    x += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  }
  static std::uint64_t entry(std::size_t position, std::int32_t token) {
    return mix((static_cast<std::uint64_t>(position) << 32) | static_cast<std::uint32_t>(token));
  }
  std::uint64_t& slot(const model::SequenceChunk& chunk, std::size_t position) {
    const auto block = chunk.block_table[position / kernels::kBlockTokens];
    return store_[static_cast<std::size_t>(block) * kernels::kBlockTokens +
                  position % kernels::kBlockTokens];
  }
  void write(const model::SequenceChunk& chunk) {
    for (std::size_t i = 0; i < chunk.token_ids.size(); ++i) {
      const std::size_t position = static_cast<std::size_t>(chunk.start_position) + i;
      slot(chunk, position) = entry(position, chunk.token_ids[i]);
    }
    for (const model::FeatureRows& features : chunk.features) {
      for (std::size_t row = 0; row * kFeatureSize < features.rows.size(); ++row) {
        std::uint64_t hash = 0;
        for (std::size_t i = 0; i < kFeatureSize; ++i) {
          hash |= static_cast<std::uint64_t>(features.rows[row * kFeatureSize + i]) << (16 * i);
        }
        const std::size_t index = static_cast<std::size_t>(features.offset) + row;
        QUERN_CHECK(index < chunk.token_ids.size());
        const std::size_t position = static_cast<std::size_t>(chunk.start_position) + index;
        slot(chunk, position) = image_entry(position, hash);
      }
    }
  }
  std::uint64_t read(const model::SequenceChunk& chunk) {
    return read(chunk, static_cast<std::size_t>(chunk.start_position) + chunk.token_ids.size());
  }
  std::uint64_t read(const model::SequenceChunk& chunk, std::size_t end) {
    std::uint64_t state = 0;
    for (std::size_t i = 0; i < end; ++i) state = mix(state ^ slot(chunk, i));
    return state;
  }
  void fill(std::uint64_t state, std::span<float> logits) const {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = static_cast<float>(mix(state + i) >> 40) * 0x1p-20F - 8.0F;  // [-8, 8)
    }
  }

  int vocab_size_;
  std::vector<std::uint64_t> store_;   // [blocks, 128]
  std::vector<std::uint64_t> states_;  // of every token of the last step
};

// An image of `rows` placeholders: `seed` stands for its content.
inline ImageInput fake_image(int offset, int rows, unsigned seed) {
  auto patches = std::make_shared<vision::ImagePatches>();
  patches->num_tokens = rows;
  patches->pixels = {static_cast<float>(seed), static_cast<float>(rows)};
  ImageInput image;
  image.offset = offset;
  image.num_tokens = rows;
  image.hash[0] = static_cast<std::byte>(seed);
  image.hash[1] = static_cast<std::byte>(rows & 0xFF);
  image.patches = std::move(patches);
  return image;
}

}  // namespace quern::engine::test
