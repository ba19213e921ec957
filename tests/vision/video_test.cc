// Frames, sampling and segments against OpenCV and transformers (tools/video_golden.py); only where
// the build has FFmpeg's libraries.
#include "quern/vision/video.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "quern/checkpoint/safetensors.h"
#include "tests/support/error_message.h"
#include "tests/vision/release_config.h"

namespace quern::vision {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Clips {
 public:
  std::span<const std::byte> file(const std::string& name) const {
    return view(name + ".file").raw();
  }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  TensorView view(const std::string& name) const {
    const TensorInfo* info = file_.find(name);
    QUERN_CHECK(info != nullptr, "no golden tensor '{}'", name);
    return file_.view(*info);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const TensorInfo& info : file_.header().tensors) {
      if (info.name.ends_with(".file")) names.push_back(info.name.substr(0, info.name.size() - 5));
    }
    return names;
  }

 private:
  SafetensorsFile file_{std::filesystem::path(QUERN_SOURCE_DIR) /
                        "tests/golden/video/clips.safetensors"};
};

// The rule of vLLM's models/minimax_m3, by hand.
TEST(VideoSampling, TakesTheFirstFrameAndThenOneASecond) {
  EXPECT_THAT(sample_frames(0, 30, 1, 10), IsEmpty());
  EXPECT_THAT(sample_frames(5, 0, 1, 10), ElementsAre(0)) << "no rate is known";
  EXPECT_THAT(sample_frames(91, 30, 1, 10), ElementsAre(0, 30, 60, 90));
  EXPECT_THAT(sample_frames(90, 30, 1, 10), ElementsAre(0, 30, 60));
  // 30 frames of 29.97 a second take 1.001 s; 0.9999 s are enough.
  EXPECT_THAT(sample_frames(70, 30000.0 / 1001, 1, 10), ElementsAre(0, 30, 60));
  // 2.5 frames a second: the third is 1.2 s after the first, and so on from there.
  EXPECT_THAT(sample_frames(9, 2.5, 1, 10), ElementsAre(0, 3, 6));
  EXPECT_THAT(sample_frames(4, 0.5, 1, 10), ElementsAre(0, 1, 2, 3)) << "slower than asked for";
  EXPECT_THAT(sample_frames(20, 10, 2, 10), ElementsAre(0, 5, 10, 15));
  EXPECT_EQ(test::error_message<ImageError>([] { sample_frames(1'000'000'000'000, 1, 1, 3); }),
            "video has more than 3 frames to look at");
  EXPECT_THAT(sample_frames(std::int64_t{1} << 50, 1e300, 1, 3), ElementsAre(0));
}

class Video : public testing::Test {
 protected:
  void SetUp() override {
    if (!video_supported()) GTEST_SKIP() << "built without FFmpeg's libraries";
  }
  const Clips clips;
};

// Frames are equal to OpenCV's but for the rounding of colour conversion, where its build and ours
// may use other instructions: 3 of 255, and far less on average.
TEST_F(Video, FramesAndNumbersAreThoseOfOpenCv) {
  ASSERT_THAT(clips.names(), SizeIs(10));
  for (const std::string& name : clips.names()) {
    SCOPED_TRACE(name);
    const auto file = clips.file(name);
    const VideoPlan plan = plan_video(file, test::release_config(), {}, 100'000);
    EXPECT_DOUBLE_EQ(plan.info.fps, clips.view(name + ".fps").as<double>()[0]);
    EXPECT_EQ(plan.info.num_frames, clips.view(name + ".count").as<std::int64_t>()[0]);
    const TensorView numbers = clips.view(name + ".numbers");
    EXPECT_EQ(plan.frames, std::vector<std::int64_t>(numbers.as<std::int64_t>(),
                                                     numbers.as<std::int64_t>() + numbers.size()));
    const TensorView frames = clips.view(name + ".frames");
    EXPECT_EQ(plan.info.size.height, frames.shape.at(1));
    EXPECT_EQ(plan.info.size.width, frames.shape.at(2));
    VideoReader reader(file, {});
    std::int64_t at = -1;
    const std::uint8_t* want = frames.as<std::uint8_t>();
    for (const std::int64_t number : plan.frames) {
      for (; at < number; ++at) ASSERT_TRUE(reader.next());
      const RgbImage frame = reader.frame();
      ASSERT_EQ(std::ssize(frame.pixels), frames.size() / frames.shape.at(0));
      int worst = 0;
      std::int64_t sum = 0;
      for (const std::uint8_t value : frame.pixels) {
        const int difference = std::abs(int{value} - int{*want++});
        worst = std::max(worst, difference);
        sum += difference;
      }
      EXPECT_LE(worst, 3) << "frame " << number;
      EXPECT_LE(static_cast<double>(sum) / static_cast<double>(frame.pixels.size()), 0.5);
    }
  }
}

// Pixels, grid and order of patches: transformers' processor on OpenCV's frames.
TEST_F(Video, PatchesAreThoseOfTransformers) {
  const std::string name = "h264_long";
  const TensorView frames = clips.view(name + ".frames");
  std::vector<RgbImage> images;
  const std::int64_t size = frames.size() / frames.shape.at(0);
  for (std::int64_t i = 0; i < frames.shape.at(0); ++i) {
    const std::uint8_t* first = frames.as<std::uint8_t>() + i * size;
    images.push_back({{frames.shape.at(2), frames.shape.at(1)}, {first, first + size}});
  }
  const ImagePatches patches = preprocess_frames(images, test::release_config());
  const auto* grid = clips.view(name + ".grid").as<std::int64_t>();
  EXPECT_EQ(patches.grid_t, grid[0] + grid[3]) << "in segments there";
  EXPECT_EQ(patches.grid_h, grid[1]);
  EXPECT_EQ(patches.grid_w, grid[2]);
  const TensorView want = clips.view(name + ".patches");  // every 7th
  ASSERT_EQ(want.shape.at(1), 1176);
  for (std::int64_t i = 0; i < want.size(); ++i) {
    const std::int64_t at = i / 1176 * 7 * 1176 + i % 1176;
    // Mean and deviation folded into one division or two: a few roundings of numbers up to 3.
    ASSERT_NEAR(patches.pixels[static_cast<std::size_t>(at)], want.as<float>()[i], 2e-6) << i;
  }
}

TEST_F(Video, SegmentsHoldFourTemporalPatchesAndTheirTimes) {
  VisionPreprocessConfig config = test::release_config();
  config.video_fps = 4;
  const auto file = clips.file("h264");  // 102 frames of 30 a second
  const VideoPlan plan = plan_video(file, config, {}, 100'000);
  ASSERT_THAT(plan.frames, SizeIs(13));  // 0, 8, 16, ... 96: a quarter second is 7.5 frames
  EXPECT_EQ(plan.frames[2], 16);
  const auto segments = preprocess_video(file, plan, config, {});
  ASSERT_THAT(segments, SizeIs(2));
  EXPECT_EQ(segments[0].patches.grid_t, 4);
  EXPECT_EQ(segments[1].patches.grid_t, 3) << "the 13th frame is shown twice";
  EXPECT_EQ(plan.grid.t, 7);
  EXPECT_EQ(plan.grid.h, 4);
  EXPECT_EQ(plan.grid.w, 6);
  EXPECT_THAT(segments[0].seconds, ElementsAre(0.0, 16 / 30.0, 32 / 30.0, 48 / 30.0));
  EXPECT_THAT(segments[1].seconds, ElementsAre(64 / 30.0, 80 / 30.0, 96 / 30.0));

  // The same patches as those of all frames in one, which is what transformers computes.
  VideoReader reader(file, {});
  std::vector<RgbImage> frames;
  for (std::int64_t i = 0; i <= plan.frames.back(); ++i) {
    ASSERT_TRUE(reader.next());
    if (std::ranges::find(plan.frames, i) != plan.frames.end()) frames.push_back(reader.frame());
  }
  std::vector<float> joined = segments[0].patches.pixels;
  joined.insert(joined.end(), segments[1].patches.pixels.begin(), segments[1].patches.pixels.end());
  EXPECT_TRUE(joined == preprocess_frames(frames, config).pixels);
}

TEST_F(Video, ARotationOfTheContainerIsApplied) {
  VideoReader reader(clips.file("h264_rotated"), {});
  EXPECT_EQ(reader.info().size.width, 56);
  EXPECT_EQ(reader.info().size.height, 84);
  ASSERT_TRUE(reader.next());
  // The gradient that grew to the right in red grows to the bottom: a quarter turn clockwise.
  const RgbImage frame = reader.frame();
  EXPECT_LT(frame.row(2)[3 * 10], 40);
  EXPECT_GT(frame.row(81)[3 * 10], 200);
}

TEST(VideoWithoutLibraries, IsRefusedByName) {
  if (video_supported()) GTEST_SKIP() << "built with FFmpeg's libraries";
  EXPECT_THAT(test::error_message<ImageError>([] { VideoReader({}, {}); }),
              HasSubstr("built without FFmpeg's libraries"));
}

}  // namespace
}  // namespace quern::vision
