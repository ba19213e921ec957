// Steps go through bytes unchanged.
#include "quern/engine/step_message.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "quern/engine/rank_worker.h"

namespace quern::engine {
namespace {

TEST(StepMessage, RunComesBack) {
  const std::vector<std::int32_t> tokens{5, 6, 7}, one{9}, table{3, 1}, other{0};
  const std::vector<float> rows{1.5F, -0.0F, 3.0F};
  const model::FeatureRows features[] = {{1, rows}, {2, std::span(rows).first(1)}};
  const model::SequenceChunk chunks[] = {{tokens, 130, table, false, features},
                                         {one, 0, other, true, {}},
                                         {tokens, 4, other, true, {}}};
  std::vector<std::byte> bytes(7);
  write_run(chunks, bytes);
  RunPlan plan;
  plan.chunks.resize(5);
  read_run(bytes, plan);
  ASSERT_EQ(plan.chunks.size(), 3U);
  EXPECT_EQ(plan.logit_rows, 2U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(std::ranges::equal(plan.chunks[i].token_ids, chunks[i].token_ids));
    EXPECT_TRUE(std::ranges::equal(plan.chunks[i].block_table, chunks[i].block_table));
    EXPECT_EQ(plan.chunks[i].start_position, chunks[i].start_position);
    EXPECT_EQ(plan.chunks[i].wants_logits, chunks[i].wants_logits);
    ASSERT_EQ(plan.chunks[i].features.size(), chunks[i].features.size());
  }
  EXPECT_EQ(plan.chunks[0].features[1].offset, 2);
  EXPECT_TRUE(std::ranges::equal(plan.chunks[0].features[0].rows, rows));
  EXPECT_TRUE(std::signbit(plan.chunks[0].features[0].rows[1]));
  EXPECT_DEATH(read_run(std::span(bytes).first(bytes.size() - 8), plan), "ends early");
}

TEST(StepMessage, TokensAndImagesComeBack) {
  std::vector<std::byte> bytes;
  const std::vector<std::int32_t> tokens{4, 0, 99};
  write_tokens(tokens, bytes);
  EXPECT_TRUE(std::ranges::equal(read_tokens(bytes), tokens));
  vision::ImagePatches small, large;
  small.grid_t = 1;
  small.grid_h = 2;
  small.grid_w = 2;
  small.num_tokens = 1;
  small.pixels = {0.5F, 1.0F, -2.0F};
  large.grid_t = 3;
  large.grid_h = 4;
  large.grid_w = 6;
  large.num_tokens = 18;
  large.pixels.resize(1000);
  std::iota(large.pixels.begin(), large.pixels.end(), 0.0F);
  const vision::ImagePatches* const images[] = {&small, &large};
  write_images(images, bytes);
  const auto read = read_images(bytes);
  ASSERT_EQ(read.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(read[i].pixels, images[i]->pixels);
    EXPECT_EQ(read[i].grid_t, images[i]->grid_t);
    EXPECT_EQ(read[i].grid_h, images[i]->grid_h);
    EXPECT_EQ(read[i].grid_w, images[i]->grid_w);
    EXPECT_EQ(read[i].num_tokens, images[i]->num_tokens);
  }
}

TEST(StepMessage, ImagesAreDividedByTheirPixels) {
  std::vector<vision::ImagePatches> images(4);
  std::vector<const vision::ImagePatches*> all;
  for (const std::size_t pixels : {100U, 100U, 500U, 1U}) {
    images[all.size()].pixels.resize(pixels);
    all.push_back(&images[all.size()]);
  }
  const std::span<const vision::ImagePatches* const> rest = all;
  EXPECT_EQ(images_within(rest, 10000), 4U);
  EXPECT_EQ(images_within(rest, 800), 2U);
  EXPECT_EQ(images_within(rest, 799), 1U);
  EXPECT_EQ(images_within(rest.subspan(2), 800), 1U) << "one always goes";
  EXPECT_EQ(images_within(rest.subspan(4), 800), 0U);
}

TEST(StepMessage, OptionsOfTheRanksComeBack) {
  EngineOptions options;
  options.model_dir = "/models/m3";
  options.max_num_seqs = 7;
  options.kv_cache_bytes = 5'000'000'000;
  options.moe_backend = kernels::MoeBackend::kEmulation;
  options.images.max_pixels = 12345;
  options.parallel.tensor_parallel_size = 4;
  options.parallel.enable_expert_parallel = true;
  options.parallel.encoder_data_parallel = true;
  options.parallel.timeout_seconds = 33;
  const EngineOptions read = read_rank_setup(parse_json(rank_setup(options).dump(), "test"));
  EXPECT_EQ(read.model_dir, options.model_dir);
  EXPECT_EQ(read.max_num_seqs, 7);
  EXPECT_EQ(read.kv_cache_bytes, options.kv_cache_bytes);
  EXPECT_EQ(read.moe_backend, options.moe_backend);
  EXPECT_EQ(read.images.max_pixels, options.images.max_pixels);
  EXPECT_FALSE(read.images.min_pixels);
  EXPECT_EQ(read.parallel.tensor_parallel_size, 4);
  EXPECT_TRUE(read.parallel.enable_expert_parallel && read.parallel.encoder_data_parallel);
  EXPECT_EQ(read.parallel.timeout_seconds, 33);
}

}  // namespace
}  // namespace quern::engine
