// Videos that want to hurt: wrong magic, cut and damaged files, headers that lie, limits. Each
// gives an ImageError or frames, in bounded memory and time; run under AddressSanitizer as well.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "quern/checkpoint/safetensors.h"
#include "quern/vision/video.h"
#include "tests/support/error_message.h"

namespace quern::vision {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

class HostileVideo : public testing::Test {
 protected:
  void SetUp() override {
    if (!video_supported()) GTEST_SKIP() << "built without FFmpeg's libraries";
    getrusage(RUSAGE_SELF, &before_);
  }
  void TearDown() override {
    rusage after{};
    getrusage(RUSAGE_SELF, &after);
    EXPECT_LT(after.ru_maxrss - before_.ru_maxrss, 400 * 1024);  // KiB
  }

  Bytes clip(const std::string& name) const {
    const TensorInfo* info = file_.find(name + ".file");
    QUERN_CHECK(info != nullptr, "no clip '{}'", name);
    const auto raw = file_.view(*info).raw();
    return {raw.begin(), raw.end()};
  }
  // The whole way of a request; "" when the video was read.
  static std::string outcome(const Bytes& file, const VideoLimits& limits = {}) {
    return test::error_message<ImageError>([&] {
      const auto config = make_preprocess_config(PreprocessorConfig{});
      const VideoPlan plan = plan_video(file, config, limits, 4096);
      preprocess_video(file, plan, config, limits);
    });
  }
  static std::size_t find(const Bytes& file, std::string_view box) {
    for (std::size_t i = 0; i + box.size() <= file.size(); ++i) {
      if (std::memcmp(file.data() + i, box.data(), box.size()) == 0) return i;
    }
    QUERN_CHECK(false, "no {}", box);
  }
  static void put_be32(Bytes& file, std::size_t offset, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i)
      file[offset + i] = static_cast<std::byte>(value >> (24 - 8 * i) & 0xFF);
  }

 private:
  SafetensorsFile file_{std::filesystem::path(QUERN_SOURCE_DIR) /
                        "tests/golden/video/clips.safetensors"};
  rusage before_{};
};

TEST_F(HostileVideo, WrongMagicIsNamed) {
  EXPECT_EQ(outcome({}),
            "cannot identify video: the first bytes are neither MP4 nor WebM (0 bytes)");
  EXPECT_THAT(outcome(Bytes(100, std::byte{'A'})), HasSubstr("neither MP4 nor WebM (100 bytes)"));
  // A playlist and an image sequence would make the libraries open other files.
  const std::string playlist = "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n";
  const auto* text = reinterpret_cast<const std::byte*>(playlist.data());
  EXPECT_THAT(outcome(Bytes(text, text + playlist.size())), HasSubstr("cannot identify video"));
}

TEST_F(HostileVideo, LimitsHold) {
  const Bytes file = clip("h264");
  EXPECT_EQ(outcome(file), "");
  EXPECT_EQ(outcome(file, {.max_bytes = 100}),
            fmt::format("video of {} bytes exceeds the limit of 100 bytes", file.size()));
  EXPECT_EQ(outcome(file, {.max_pixels = 84 * 56 - 1}),
            "frames of 84 x 56 pixels exceed the limit of 4703 pixels");
  EXPECT_EQ(outcome(file, {.max_frames = 101}), "video of 102 frames exceeds the limit of 101");
  // 18 frames of whole blocks of 64 x 64 behind an edge, with 12 bits a pixel.
  EXPECT_EQ(outcome(file, {.max_decoder_bytes = 18 * 192 * 128 * 3 / 2}), "");
  EXPECT_EQ(outcome(file, {.max_decoder_bytes = 18 * 192 * 128 * 3 / 2 - 1}),
            "decoding frames of 84 x 56 pixels (yuv420p) may take 663552 bytes, which exceeds the "
            "limit of 663551 bytes");
  EXPECT_EQ(outcome(file, {.max_decode_seconds = 0}), "decoding takes longer than 0 s");
  const auto config = make_preprocess_config(PreprocessorConfig{});
  EXPECT_EQ(test::error_message<ImageError>([&] { plan_video(file, config, {}, 11); }),
            "video has more than 2 frames to look at");
  EXPECT_NO_THROW(plan_video(file, config, {}, 12));
}

// The deadline passes while the last frames are given out, when there are no packets left to feed.
TEST_F(HostileVideo, TheDeadlineHoldsForEachFrame) {
  constexpr double kSeconds = 0.5;
  const Bytes file = clip("h264");
  VideoReader reader(file, {.max_decode_seconds = kSeconds});
  for (int frame = 0; frame < 101; ++frame) ASSERT_TRUE(reader.next());
  const auto cpu_seconds = [] {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  for (const double begin = cpu_seconds(); cpu_seconds() < begin + kSeconds;) {
  }
  EXPECT_EQ(test::error_message<ImageError>([&] { reader.next(); }),
            "decoding takes longer than 0.5 s");
}

// Sizes that the container claims: the stream's own header may correct them, memory is what counts.
TEST_F(HostileVideo, SizesOfTheContainerAreOnlyAClaim) {
  Bytes file = clip("vp9");  // PixelWidth
  const std::size_t width = find(file, "\xB0\x81\x54");
  file[width + 2] = std::byte{255};
  outcome(file);

  file = clip("mpeg4");  // 65535 x 65535 in the sample description
  const std::size_t entry = find(file, "mp4v");
  for (std::size_t i = 28; i < 32; ++i) file[entry + i] = std::byte{0xFF};
  outcome(file);
}

// A sample table that claims four thousand million frames of no bytes.
TEST_F(HostileVideo, LyingSampleTablesTakeNoMemory) {
  for (const std::uint32_t count : {1'000'000U, 100'000'000U, 4'000'000'000U}) {
    for (const char* box : {"stsz", "stts", "stsc"}) {
      Bytes file = clip("h264");
      const std::size_t at = find(file, box);
      if (box == std::string("stsz")) {
        put_be32(file, at + 8, 1);  // all of one size
        put_be32(file, at + 12, count);
      } else {
        put_be32(file, at + (box == std::string("stts") ? 12 : 16), count);  // of the first entry
      }
      outcome(file);
    }
  }
}

TEST_F(HostileVideo, CutFilesGiveAnErrorOrTheFramesThatAreThere) {
  for (const char* name : {"h264", "mpeg4", "vp8_odd", "vp9", "hevc", "av1"}) {
    const Bytes file = clip(name);
    for (std::size_t i = 0; i < 24; ++i)
      outcome(
          Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(file.size() * i / 24)));
  }
}

TEST_F(HostileVideo, DamageIsSurvived) {
  std::mt19937 random(20261125);
  for (const char* name : {"h264", "h264_rotated", "mpeg4", "vp8_odd", "vp9", "hevc", "av1"}) {
    const Bytes file = clip(name);
    for (int round = 0; round < 20; ++round) {
      Bytes damaged = file;
      for (std::uint64_t k = 1 + random() % 12; k > 0; --k)
        damaged[random() % damaged.size()] = static_cast<std::byte>(random());
      outcome(damaged);
    }
  }
}

}  // namespace
}  // namespace quern::vision
