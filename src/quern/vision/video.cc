// Frame sampling and segments (vLLM models/minimax_m3/common/mm_preprocess.py). See video.h.
#include "quern/vision/video.h"

#include <algorithm>
#include <cmath>

namespace quern::vision {
namespace {

PatchGrid frames_grid(ImageSize size, std::size_t frames, const VisionPreprocessConfig& config) {
  const ImageSize resized =
      smart_resize(size, config.factor(), config.min_pixels, config.max_frame_pixels);
  const auto steps = static_cast<std::size_t>(config.temporal_patch_size);
  return {static_cast<int>((frames + steps - 1) / steps),
          static_cast<int>(resized.height) / config.patch_size,
          static_cast<int>(resized.width) / config.patch_size};
}

// Cuts frames into segments as they come, so that few pictures of full size are alive.
class SegmentWriter {
 public:
  SegmentWriter(const VideoPlan& plan, const VisionPreprocessConfig& config)
      : plan_(plan),
        config_(config),
        size_{std::int64_t{plan.grid.w} * config.patch_size,
              std::int64_t{plan.grid.h} * config.patch_size} {}

  void add(const RgbImage& frame, std::int64_t number) {
    frames_.push_back(resize_bicubic(frame, size_));
    numbers_.push_back(number);
    if (std::ssize(frames_) == std::int64_t{config_.segment_steps} * config_.temporal_patch_size)
      flush();
  }

  std::vector<VideoSegment> take() {
    if (!frames_.empty()) flush();
    return std::move(segments_);
  }

 private:
  void flush() {
    VideoSegment segment;
    segment.patches = frame_patches(frames_, config_);
    const auto steps = static_cast<std::size_t>(config_.temporal_patch_size);
    for (std::size_t i = 0; i < numbers_.size(); i += steps) {
      const auto number = static_cast<double>(numbers_[i]);
      segment.seconds.push_back(plan_.info.fps > 0 ? number / plan_.info.fps : 0.0);
    }
    segments_.push_back(std::move(segment));
    frames_.clear();
    numbers_.clear();
  }

  const VideoPlan& plan_;
  const VisionPreprocessConfig& config_;
  ImageSize size_;
  std::vector<RgbImage> frames_;  // resized
  std::vector<std::int64_t> numbers_;
  std::vector<VideoSegment> segments_;
};

}  // namespace

std::vector<std::int64_t> sample_frames(std::int64_t num_frames, double fps, double wanted_fps,
                                        std::size_t most) {
  if (num_frames <= 0) return {};
  std::vector<std::int64_t> frames{0};
  if (!(fps > 0) || !(wanted_fps > 0)) return frames;
  constexpr double kEpsilon = 1e-4;  // of a second: what rounding may make a frame early
  for (;;) {
    const double shown = static_cast<double>(frames.back()) / fps;
    const double next = std::ceil((shown + 1.0 / wanted_fps - kEpsilon) * fps);
    if (!(next < static_cast<double>(num_frames))) return frames;
    const std::int64_t number = std::max(static_cast<std::int64_t>(next), frames.back() + 1);
    if (number >= num_frames) return frames;
    if (frames.size() >= most) throw ImageError("video has more than {} frames to look at", most);
    frames.push_back(number);
  }
}

VideoPlan plan_video(std::span<const std::byte> bytes, const VisionPreprocessConfig& config,
                     const VideoLimits& limits, std::int64_t max_tokens) {
  VideoPlan plan;
  plan.info = VideoReader(bytes, limits).info();
  const std::int64_t step_tokens = frames_grid(plan.info.size, 1, config).tokens(config.merge_size);
  const std::int64_t most_steps = max_tokens / step_tokens;
  plan.frames = sample_frames(plan.info.num_frames, plan.info.fps, config.video_fps,
                              static_cast<std::size_t>(most_steps * config.temporal_patch_size));
  if (plan.frames.empty()) throw ImageError("video has no frames");
  plan.grid = frames_grid(plan.info.size, plan.frames.size(), config);
  if (plan.grid.t > most_steps) {
    throw ImageError("video of {} x {} temporal patches has more than {} tokens", plan.grid.t,
                     step_tokens, max_tokens);
  }
  return plan;
}

std::vector<VideoSegment> preprocess_video(std::span<const std::byte> bytes, const VideoPlan& plan,
                                           const VisionPreprocessConfig& config,
                                           const VideoLimits& limits) {
  VideoReader reader(bytes, limits);
  SegmentWriter writer(plan, config);
  std::int64_t decoded = 0;
  for (const std::int64_t number : plan.frames) {
    bool more = true;
    for (; more && decoded <= number; ++decoded) more = reader.next();
    if (!more) break;
    writer.add(reader.frame(), number);
  }
  std::vector<VideoSegment> segments = writer.take();
  if (segments.empty()) throw ImageError("no frame of the video can be decoded");
  return segments;
}

}  // namespace quern::vision
