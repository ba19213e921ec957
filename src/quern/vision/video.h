// Videos from bytes that nobody trusts: which frames the model sees, and their patches in the
// pieces that the tower attends over. Must never let a header decide how much memory or time a
// video takes. Proved by tests/vision/video_test.cc (against OpenCV) and
// tests/vision/hostile_video_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quern/vision/image.h"
#include "quern/vision/preprocess.h"

namespace quern::vision {

// Whether this build has FFmpeg's libraries. Without them every video is an ImageError.
bool video_supported();

struct VideoLimits {
  std::size_t max_bytes = std::size_t{64} << 20;  // of the file
  std::int64_t max_pixels = 9'437'184;            // of a frame: the largest of H.264's level 5.2
  std::size_t max_decoder_bytes = std::size_t{512} << 20;  // of the frames that a decoder holds
  std::int64_t max_frames = 108'000;                       // decoded: an hour of 30 a second
  double max_decode_seconds = 60;                          // of CPU time
};

// As OpenCV reports them (vLLM reads videos with it): the container's word, not a count.
struct VideoInfo {
  ImageSize size;  // as shown, a rotation of the container applied
  double fps = 0;
  std::int64_t num_frames = 0;
};

// Frames of an MP4 or WebM file (H.264, HEVC, VP8, VP9, AV1, MPEG-4), one by one on the calling
// thread. `bytes` outlive it.
class VideoReader {
 public:
  VideoReader(std::span<const std::byte> bytes, const VideoLimits& limits);
  ~VideoReader();

  const VideoInfo& info() const;
  // Decodes one more frame; false at the end. Damaged parts are skipped.
  bool next();
  // The frame of the last next(); an ImageError when its size is not the first one's.
  RgbImage frame();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The numbers of the frames that are shown at `wanted_fps`: the first, then each one that is 1 /
// wanted_fps after the one before (vLLM models/minimax_m3). Throws an ImageError beyond `most`.
std::vector<std::int64_t> sample_frames(std::int64_t num_frames, double fps, double wanted_fps,
                                        std::size_t most);

// What the header promises; a file with fewer frames gives fewer temporal patches.
struct VideoPlan {
  VideoInfo info;
  std::vector<std::int64_t> frames;
  PatchGrid grid;
};

// Reads the header only. Throws an ImageError when it is no video, beyond the limits, or has more
// than `max_tokens` rows of features.
VideoPlan plan_video(std::span<const std::byte> bytes, const VisionPreprocessConfig& config,
                     const VideoLimits& limits, std::int64_t max_tokens);

// A piece of at most config.segment_steps temporal patches, which attends to itself only.
struct VideoSegment {
  ImagePatches patches;
  std::vector<double> seconds;  // when the first frame of each temporal patch is shown
};

// Thread-safe: meant for a worker thread.
std::vector<VideoSegment> preprocess_video(std::span<const std::byte> bytes, const VideoPlan& plan,
                                           const VisionPreprocessConfig& config,
                                           const VideoLimits& limits);

}  // namespace quern::vision
