// Pictures to patches and hashes, placeholders to prompts, limits and budgets.
#include "quern/server/image_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "quern/base/file.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int32_t kImage = 100, kStart = 101, kEnd = 102;
constexpr std::size_t kPatchBytes = std::size_t{3 * 2 * 14 * 14} * sizeof(float);

class ImageInputsTest : public testing::Test {
 protected:
  ImageInputOptions options() {
    ImageInputOptions options;
    options.config = vision::make_preprocess_config(PreprocessorConfig{});
    options.image_token = kImage;
    options.start_token = kStart;
    options.end_token = kEnd;
    options.placeholder = "<image>";
    options.max_model_len = 4096;
    options.budget = budget;
    return options;
  }
  static Media picture(const std::string& name) {
    return {read_file(QUERN_SOURCE_DIR "/data/shapes/" + name, 1 << 20), nullptr};
  }
  static std::pair<int, std::string> failure(const ImageInputs& inputs, std::vector<Media> media) {
    try {
      inputs.prepare(std::move(media));
    } catch (const ApiError& error) {
      return {error.status(), error.what()};
    }
    return {200, ""};
  }

  std::shared_ptr<MemoryBudget> budget = std::make_shared<MemoryBudget>(1 << 30);
};

TEST_F(ImageInputsTest, HashesFollowTheContent) {
  const ImageInputs inputs(options());
  auto images = inputs.prepare({picture("red_circle_56.png"), picture("red_circle_112.png"),
                                picture("red_circle_56.png"), picture("blue_circle_56.png")});
  ASSERT_EQ(images.size(), 4U);
  EXPECT_EQ(images[0].patches->num_tokens, 4);
  EXPECT_EQ(images[1].patches->num_tokens, 16);
  EXPECT_EQ(images[0].hash, images[2].hash);
  EXPECT_NE(images[0].hash, images[1].hash);
  EXPECT_NE(images[0].hash, images[3].hash);

  ImageInputOptions larger = options();
  larger.config.min_pixels = 112 * 112;
  EXPECT_NE(ImageInputs(larger).prepare({picture("red_circle_56.png")})[0].hash, images[0].hash)
      << "processor options are part of it";

  EXPECT_EQ(budget->used(), (16 + 64 + 16 + 16) * kPatchBytes);
  images.erase(images.begin() + 1, images.end());
  EXPECT_EQ(budget->used(), 16 * kPatchBytes);
  images.clear();
  EXPECT_EQ(budget->used(), 0U);
}

TEST_F(ImageInputsTest, PlaceholdersGrowToTheirLength) {
  const ImageInputs inputs(options());
  auto images = inputs.prepare({picture("red_circle_56.png"), picture("red_square_56.png")});
  std::vector<std::int32_t> prompt{1, kImage, 2, kImage};
  inputs.expand(prompt, images);
  EXPECT_THAT(prompt, ElementsAre(1, kStart, kImage, kImage, kImage, kImage, kEnd, 2, kStart,
                                  kImage, kImage, kImage, kImage, kEnd));
  EXPECT_EQ(images[0].offset, 2);
  EXPECT_EQ(images[1].offset, 9);
  for (std::vector<std::int32_t> wrong :
       {std::vector<std::int32_t>{kImage}, std::vector<std::int32_t>{kImage, kImage, kImage}}) {
    EXPECT_THROW(inputs.expand(wrong, images), ApiError);
  }
}

TEST_F(ImageInputsTest, WhatIsNoPictureOrTooMuchIsRefused) {
  ImageInputOptions small = options();
  small.max_model_len = 30;
  small.budget = budget = std::make_shared<MemoryBudget>(70 * kPatchBytes);
  const ImageInputs inputs(small);
  EXPECT_EQ(failure(inputs, {{"not a picture", nullptr}}).first, 400);
  EXPECT_EQ(failure(inputs, {picture("red_circle_56.png"), {"", nullptr}}).first, 400);
  const auto long_one =
      failure(inputs, {picture("red_circle_112.png"), picture("red_circle_112.png")});
  EXPECT_EQ(long_one.first, 400);
  EXPECT_THAT(long_one.second, HasSubstr("maximum context length is 30 tokens"));
  const auto held = inputs.prepare({picture("red_circle_112.png")});
  EXPECT_EQ(failure(inputs, {picture("red_circle_56.png")}).first, 429);
  EXPECT_EQ(budget->used(), 64 * kPatchBytes) << "the refused ones have given back";
}

}  // namespace
}  // namespace quern::server
