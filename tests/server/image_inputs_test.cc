// Pictures to patches and hashes, placeholders to prompts, limits and budgets.
#include "quern/server/image_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "quern/base/file.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/server/api_error.h"
#include "quern/text/tokenizer.h"

namespace quern::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int32_t kImage = 100, kStart = 101, kEnd = 102, kVideo = 103, kTime = 104;
constexpr std::size_t kPatchBytes = std::size_t{3 * 2 * 14 * 14} * sizeof(float);

class ImageInputsTest : public testing::Test {
 protected:
  ImageInputOptions options() {
    ImageInputOptions options;
    options.config = vision::make_preprocess_config(PreprocessorConfig{});
    options.image_token = kImage;
    options.video_token = kVideo;
    options.tokenize = [](std::string_view) { return std::vector<std::int32_t>{kTime}; };
    options.start_token = kStart;
    options.end_token = kEnd;
    options.placeholder = "<image>";
    options.max_model_len = 4096;
    options.budget = budget;
    return options;
  }
  static MediaItem item(std::string bytes, const std::string& uuid = "") {
    return {PartKind::kImage, true, "", uuid, {std::move(bytes), nullptr}};
  }
  static MediaItem picture(const std::string& name, const std::string& uuid = "") {
    return item(read_file(QUERN_SOURCE_DIR "/data/shapes/" + name, 1 << 20), uuid);
  }
  static MediaItem named(const std::string& uuid) {
    return {PartKind::kImage, false, "", uuid, {}};
  }
  static MediaItem clip(const std::string& name, const std::string& uuid = "") {
    const SafetensorsFile file(std::filesystem::path(QUERN_SOURCE_DIR) /
                               "tests/golden/video/clips.safetensors");
    const auto raw = file.view(*file.find(name + ".file")).raw();
    MediaItem result = item({reinterpret_cast<const char*>(raw.data()), raw.size()}, uuid);
    result.kind = PartKind::kVideo;
    return result;
  }
  static const engine::ImageInput& image(const PreparedMedia& media) {
    return media.pieces.at(0).image;
  }
  static std::pair<int, std::string> failure(const ImageInputs& inputs,
                                             std::vector<MediaItem> media) {
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
  EXPECT_EQ(image(images[0]).num_tokens, 4);
  EXPECT_EQ(image(images[1]).num_tokens, 16);
  EXPECT_EQ(image(images[0]).hash, image(images[2]).hash);
  EXPECT_NE(image(images[0]).hash, image(images[1]).hash);
  EXPECT_NE(image(images[0]).hash, image(images[3]).hash);

  ImageInputOptions larger = options();
  larger.config.min_pixels = 112 * 112;
  const auto others = ImageInputs(larger).prepare({picture("red_circle_56.png")});
  EXPECT_NE(image(others[0]).hash, image(images[0]).hash) << "processor options are part of it";

  EXPECT_EQ(budget->used(), (16 + 64 + 16 + 16 + 64) * kPatchBytes);
  images.erase(images.begin() + 1, images.end());
  EXPECT_EQ(budget->used(), (16 + 64) * kPatchBytes);
  images.clear();
  EXPECT_EQ(budget->used(), 64 * kPatchBytes) << "those of `others`";
}

TEST_F(ImageInputsTest, PlaceholdersGrowToTheirLength) {
  const ImageInputs inputs(options());
  const auto media = inputs.prepare({picture("red_circle_56.png"), picture("red_square_56.png")});
  std::vector<std::int32_t> prompt{1, kImage, 2, kImage};
  const auto images = inputs.expand(prompt, media);
  EXPECT_THAT(prompt, ElementsAre(1, kStart, kImage, kImage, kImage, kImage, kEnd, 2, kStart,
                                  kImage, kImage, kImage, kImage, kEnd));
  EXPECT_EQ(images[0].offset, 2);
  EXPECT_EQ(images[1].offset, 9);
  for (std::vector<std::int32_t> wrong :
       {std::vector<std::int32_t>{kImage}, std::vector<std::int32_t>{kImage, kImage, kImage},
        std::vector<std::int32_t>{kImage, kImage, kVideo}}) {
    EXPECT_THROW(inputs.expand(wrong, media), ApiError);
  }
}

TEST_F(ImageInputsTest, WhatIsNoPictureOrTooMuchIsRefused) {
  ImageInputOptions small = options();
  small.max_model_len = 30;
  small.budget = budget = std::make_shared<MemoryBudget>(70 * kPatchBytes);
  const ImageInputs inputs(small);
  EXPECT_EQ(failure(inputs, {item("not a picture")}).first, 400);
  EXPECT_EQ(failure(inputs, {picture("red_circle_56.png"), item("")}).first, 400);
  const auto long_one =
      failure(inputs, {picture("red_circle_112.png"), picture("red_circle_112.png")});
  EXPECT_EQ(long_one.first, 400);
  EXPECT_THAT(long_one.second, HasSubstr("maximum context length is 30 tokens"));
  const auto held = inputs.prepare({picture("red_circle_112.png")});
  EXPECT_EQ(failure(inputs, {picture("red_circle_56.png")}).first, 429);
  EXPECT_EQ(budget->used(), 64 * kPatchBytes) << "the refused ones have given back";
}

// 22 frames of 2 a second: 11 are looked at, 6 temporal patches of 4 tokens, in segments of 4
// and 2.
TEST_F(ImageInputsTest, AVideoIsARunOfPlaceholdersForEachTemporalPatch) {
  if (!vision::video_supported()) GTEST_SKIP() << "built without FFmpeg's libraries";
  std::vector<std::string> times;
  ImageInputOptions own = options();
  own.tokenize = [&times](std::string_view text) {
    times.emplace_back(text);
    return std::vector<std::int32_t>{kTime};
  };
  const ImageInputs inputs(own);
  const auto media = inputs.prepare({picture("red_circle_56.png"), clip("h264_long")});
  EXPECT_THAT(times, ElementsAre("]<]0.0 seconds[>[", "]<]2.0 seconds[>[", "]<]4.0 seconds[>[",
                                 "]<]6.0 seconds[>[", "]<]8.0 seconds[>[", "]<]10.0 seconds[>["));
  std::vector<std::int32_t> prompt{kVideo, 1, kImage};
  const auto images = inputs.expand(prompt, media);
  ASSERT_EQ(images.size(), 7U);
  std::vector<std::int32_t> wanted;
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(images[static_cast<std::size_t>(i)].offset, std::ssize(wanted) + 2);
    EXPECT_EQ(images[static_cast<std::size_t>(i)].num_tokens, 4);
    EXPECT_EQ(images[static_cast<std::size_t>(i)].first_row, i % 4 * 4);
    wanted.insert(wanted.end(), {kTime, kStart, kVideo, kVideo, kVideo, kVideo, kEnd});
  }
  wanted.insert(wanted.end(), {1, kStart, kImage, kImage, kImage, kImage, kEnd});
  EXPECT_EQ(prompt, wanted);
  EXPECT_EQ(images[0].patches, images[3].patches) << "one segment";
  EXPECT_EQ(images[0].hash, images[3].hash);
  EXPECT_NE(images[3].hash, images[4].hash);
  EXPECT_EQ(images[4].patches->num_tokens, 8);
  EXPECT_EQ(budget->used(), (16 + 6 * 16) * kPatchBytes);
}

// With m3-tiny's tokenizer, against transformers' processor.
TEST_F(ImageInputsTest, TokensOfAVideoAreThoseOfTransformers) {
  if (!vision::video_supported()) GTEST_SKIP() << "built without FFmpeg's libraries";
  const Tokenizer tokenizer = Tokenizer::load(QUERN_SOURCE_DIR "/models/m3-tiny");
  const auto id = [&](std::string_view text) { return tokenizer.token_id(text).value(); };
  ImageInputOptions own = options();
  own.image_token = id("]<]image[>[");
  own.video_token = id("]<]video[>[");
  own.start_token = id("]<]start of image[>[");
  own.end_token = id("]<]end of image[>[");
  own.tokenize = [&](std::string_view text) { return tokenizer.encode(text); };
  const ImageInputs inputs(own);
  std::vector<std::int32_t> prompt = tokenizer.encode("see ]<]video[>[ there");
  inputs.expand(prompt, inputs.prepare({clip("h264_long")}));
  const SafetensorsFile file(std::filesystem::path(QUERN_SOURCE_DIR) /
                             "tests/golden/video/clips.safetensors");
  const TensorView want = file.view(*file.find("h264_long.tokens"));
  EXPECT_EQ(
      std::vector<std::int64_t>(prompt.begin(), prompt.end()),
      std::vector<std::int64_t>(want.as<std::int64_t>(), want.as<std::int64_t>() + want.size()));
}

TEST_F(ImageInputsTest, AUuidTakesThePlaceOfTheContent) {
  ImageInputOptions own = options();
  own.cache_bytes = 90 * kPatchBytes;
  const ImageInputs inputs(own);
  EXPECT_EQ(failure(inputs, {named("a")}).first, 400);
  EXPECT_THAT(failure(inputs, {named("a")}).second, HasSubstr("uuid 'a' is not, or no longer,"));
  const auto first = inputs.prepare({picture("red_circle_56.png", "a")});
  const auto again = inputs.prepare({named("a")});
  EXPECT_EQ(image(again[0]).hash, image(first[0]).hash);
  EXPECT_EQ(image(again[0]).patches, image(first[0]).patches);
  EXPECT_NE(image(first[0]).hash, image(inputs.prepare({picture("red_circle_56.png")})[0]).hash);
  // As in vLLM the name decides, but never for features of another size.
  EXPECT_EQ(image(inputs.prepare({picture("blue_circle_56.png", "a")})[0]).hash,
            image(first[0]).hash);
  EXPECT_NE(image(inputs.prepare({picture("red_circle_112.png", "a")})[0]).hash,
            image(first[0]).hash);
  // Names of different salts are different names.
  EXPECT_EQ(failure(inputs, {named("b")}).first, 400);
  EXPECT_THROW(inputs.prepare({named("a")}, "salt"), ApiError);
  EXPECT_NE(image(inputs.prepare({picture("red_circle_56.png", "a")}, "salt")[0]).hash,
            image(first[0]).hash);
}

TEST_F(ImageInputsTest, NamedMediaGoWhenTheirRoomIsNeeded) {
  ImageInputOptions own = options();
  own.cache_bytes = 40 * kPatchBytes;
  own.budget = budget = std::make_shared<MemoryBudget>(70 * kPatchBytes);
  const ImageInputs inputs(own);
  for (const char* uuid : {"a", "b", "c"}) inputs.prepare({picture("red_circle_56.png", uuid)});
  EXPECT_EQ(budget->used(), 32 * kPatchBytes) << "two fit";
  EXPECT_EQ(failure(inputs, {named("a")}).first, 400) << "the oldest has gone";
  EXPECT_EQ(failure(inputs, {named("b")}).first, 200);
  const auto large = inputs.prepare({picture("red_circle_112.png")});
  EXPECT_EQ(budget->used(), 64 * kPatchBytes) << "a live request comes first";
  EXPECT_EQ(failure(inputs, {named("b")}).first, 400);
}

}  // namespace
}  // namespace quern::server
