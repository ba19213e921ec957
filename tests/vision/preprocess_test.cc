// Size rule, token counts, resize, normalisation, order of patches.
#include "quern/vision/preprocess.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <random>
#include <vector>

#include "tests/support/error_message.h"
#include "tests/vision/release_config.h"

namespace quern::vision {
namespace {

using test::error_message;

struct SizeCase {
  std::int64_t height, width;
  std::int64_t resized_height, resized_width;
  std::int64_t patches;
  int tokens;
};

void PrintTo(const SizeCase& c, std::ostream* out) { *out << c.height << " x " << c.width; }

class SizeRule : public testing::TestWithParam<SizeCase> {};

TEST_P(SizeRule, GivesTheSizeAndTokensOfTheProcessor) {
  const SizeCase& c = GetParam();
  const VisionPreprocessConfig config = test::release_config();
  const ImageSize size = smart_resize({c.width, c.height}, 28, 3136, 451'584);
  EXPECT_EQ(size.height, c.resized_height);
  EXPECT_EQ(size.width, c.resized_width);
  const PatchGrid grid = image_grid({c.width, c.height}, config);
  EXPECT_EQ(grid.t, 1);
  EXPECT_EQ(grid.h, c.resized_height / 14);
  EXPECT_EQ(grid.w, c.resized_width / 14);
  EXPECT_EQ(grid.patches(), c.patches);
  EXPECT_EQ(grid.tokens(config.merge_size), c.tokens);
}

INSTANTIATE_TEST_SUITE_P(Table, SizeRule,
                         testing::Values(SizeCase{480, 640, 476, 644, 1564, 391},
                                         SizeCase{1080, 1920, 504, 896, 2304, 576},
                                         SizeCase{672, 672, 672, 672, 2304, 576},
                                         SizeCase{1024, 1024, 672, 672, 2304, 576},
                                         SizeCase{3000, 4000, 560, 756, 2160, 540},
                                         SizeCase{70, 70, 56, 56, 16, 4},
                                         SizeCase{42, 98, 56, 112, 32, 8},
                                         SizeCase{20, 20, 56, 56, 16, 4},
                                         SizeCase{14, 1000, 28, 1008, 144, 36}),
                         [](const testing::TestParamInfo<SizeCase>& info) {
                           return fmt::format("{}x{}", info.param.height, info.param.width);
                         });

// The engine's room is counted from the largest result, which at extreme ratios and with a large
// min_pixels is above max_pixels.
TEST(SizeRuleTest, NoResultExceedsTheLargestOne) {
  const struct {
    std::int64_t min_pixels, max_pixels;
  } rows[] = {{3136, 451'584}, {3136, 100'352},    {784, 784},
              {1, 9000},       {200'704, 200'704}, {100'000, 110'000}};
  std::mt19937 random(11);
  for (const auto& row : rows) {
    VisionPreprocessConfig config = test::release_config();
    config.min_pixels = row.min_pixels;
    config.max_pixels = config.max_frame_pixels = row.max_pixels;
    std::int64_t largest = 0;
    for (int i = 0; i < 20'000; ++i) {
      const auto longer = 1 + static_cast<std::int64_t>(random() % (i % 2 == 0 ? 8000 : 200));
      const auto shorter = std::max<std::int64_t>(
          (longer + 199) / 200, static_cast<std::int64_t>(random() % (i % 3 == 0 ? 60 : 4000)));
      if (shorter * 200 < longer || shorter > longer * 200) continue;
      largest = std::max(largest, image_grid({longer, shorter}, config).patches());
    }
    EXPECT_LE(largest, config.max_image_patches()) << row.min_pixels << " " << row.max_pixels;
    EXPECT_GE(3 * largest, config.max_image_patches()) << "the bound is no guess";
  }
  VisionPreprocessConfig config = test::release_config();
  EXPECT_EQ(config.max_image_tokens(), 576);
  EXPECT_EQ(config.max_segment_tokens(), 4 * 768);
  config.max_pixels = config.max_frame_pixels = 100'352;
  EXPECT_EQ(image_grid({5600, 32}, config).tokens(2), 149) << "128 windows are max_pixels";
}

TEST(SizeRuleTest, RefusesARatioAbove200WithPythonsText) {
  EXPECT_NO_THROW(smart_resize({2000, 10}, 28, 3136, 451'584));
  EXPECT_EQ(error_message<ImageError>([] {
              smart_resize({201, 1}, 28, 3136, 451'584);
            }),
            "absolute aspect ratio must be smaller than 200, got 201.0");
  EXPECT_EQ(error_message<ImageError>([] {
              smart_resize({3, 1000}, 28, 3136, 451'584);
            }),
            "absolute aspect ratio must be smaller than 200, got 333.3333333333333");
}

TEST(SizeRuleTest, NoAllowedSizeExceedsTheBounds) {
  for (std::int64_t height = 1; height < 3000; height += 37) {
    for (std::int64_t width = std::max<std::int64_t>(1, height / 200 + 1); width < 9000;
         width = width * 5 / 4 + 1) {
      if (width > 200 * height) break;
      const ImageSize size = smart_resize({width, height}, 28, 3136, 451'584);
      EXPECT_LE(size.width * size.height, 451'584) << height << " x " << width;
      EXPECT_GE(size.width * size.height, 784) << height << " x " << width;
      EXPECT_EQ(size.width % 28, 0);
      EXPECT_EQ(size.height % 28, 0);
    }
  }
}

// Each pixel of the picture tells where it is: red the row, green the column.
RgbImage position_image(std::int64_t height, std::int64_t width) {
  RgbImage image{{width, height}, {}};
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      image.pixels.insert(image.pixels.end(), {static_cast<std::uint8_t>(y),
                                               static_cast<std::uint8_t>(x), std::uint8_t{7}});
    }
  }
  return image;
}

VisionPreprocessConfig bytes_config() {  // pixels come out as their bytes
  VisionPreprocessConfig config = test::release_config();
  config.rescale_factor = 1.0F;
  config.mean = {0, 0, 0};
  config.std = {1, 1, 1};
  return config;
}

// Row and column of each patch of a grid of 4 x 4, in merge windows.
constexpr int kOrder[16][2] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3},
                               {2, 0}, {2, 1}, {3, 0}, {3, 1}, {2, 2}, {2, 3}, {3, 2}, {3, 3}};

TEST(PatchOrder, WindowsThenChannelStepRowColumn) {
  const ImagePatches patches = preprocess_image(position_image(56, 56), bytes_config());
  ASSERT_EQ(patches.num_patches(), 16);
  ASSERT_EQ(patches.pixels.size(), 16U * 1176);
  const float* value = patches.pixels.data();
  for (const auto& [row, col] : kOrder) {
    for (int channel = 0; channel < 3; ++channel) {
      for (int step = 0; step < 2; ++step) {
        for (int y = 0; y < 14; ++y) {
          for (int x = 0; x < 14; ++x) {
            const int position[3] = {row * 14 + y, col * 14 + x, 7};
            ASSERT_EQ(*value++, static_cast<float>(position[channel]));
          }
        }
      }
    }
  }
}

TEST(PatchOrder, FramesFillTemporalStepsAndTheLastIsRepeated) {
  std::vector<RgbImage> frames(3, position_image(56, 56));
  for (std::size_t f = 0; f < frames.size(); ++f) {
    for (std::size_t i = 2; i < frames[f].pixels.size(); i += 3)
      frames[f].pixels[i] = static_cast<std::uint8_t>(100 + f);
  }
  const ImagePatches patches = preprocess_frames(frames, bytes_config());
  EXPECT_EQ(patches.grid_t, 2);
  EXPECT_EQ(patches.num_tokens, 8);
  ASSERT_EQ(patches.num_patches(), 32);
  const int frame_of[2][2] = {{100, 101}, {102, 102}};
  for (int t = 0; t < 2; ++t) {
    for (int step = 0; step < 2; ++step) {
      const std::size_t blue = (static_cast<std::size_t>(t) * 16 * 3 + 2) * 2 * 196 +
                               static_cast<std::size_t>(step) * 196;
      EXPECT_EQ(patches.pixels[blue], static_cast<float>(frame_of[t][step]));
    }
  }
  frames[1] = position_image(28, 56);
  EXPECT_EQ(error_message<ImageError>([&] { preprocess_frames(frames, bytes_config()); }),
            "frame 1 of the video is 56 x 28 pixels, the first is 56 x 56");
}

TEST(Normalisation, IsTheMeanAndDeviationOfTheFile) {
  RgbImage image = position_image(56, 56);
  std::fill(image.pixels.begin(), image.pixels.end(), std::uint8_t{255});
  const ImagePatches patches = preprocess_image(image, test::release_config());
  const double mean[3] = {0.48145466, 0.4578275, 0.40821073};
  const double std[3] = {0.26862954, 0.26130258, 0.27577711};
  for (std::size_t c = 0; c < 3; ++c) {
    // Three float32 operations on values of at most 2.2.
    EXPECT_NEAR(patches.pixels[c * 392], (1.0 - mean[c]) / std[c], 1e-6);
  }
}

TEST(Resize, KeepsAFlatPictureAndBounds) {
  RgbImage flat = position_image(37, 91);
  std::fill(flat.pixels.begin(), flat.pixels.end(), std::uint8_t{200});
  for (const std::uint8_t value : resize_bicubic(flat, {56, 112}).pixels) EXPECT_EQ(value, 200);
  // One-pixel stripes overshoot in every cubic: the result stays a byte.
  RgbImage stripes = position_image(40, 40);
  for (std::size_t i = 0; i < stripes.pixels.size(); ++i)
    stripes.pixels[i] = i / 3 % 2 == 0 ? 255 : 0;
  EXPECT_EQ(resize_bicubic(stripes, {84, 84}).pixels.size(), 84U * 84 * 3);
}

TEST(PreprocessConfig, RefusesWhatItDoesNotCover) {
  PreprocessorConfig file;
  file.resample = 2;
  EXPECT_EQ(error_message([&] { make_preprocess_config(file); }),
            "preprocessor_config.json: resample: 2 is not supported");
  file = {};
  file.do_normalize = false;
  EXPECT_EQ(error_message([&] { make_preprocess_config(file); }),
            "preprocessor_config.json: do_normalize: false is not supported");
}

}  // namespace
}  // namespace quern::vision
