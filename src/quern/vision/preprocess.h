// From pictures to the patches that the vision tower reads: size rule, resize, normalisation, patch
// order. Must never depend on a model's sizes that are not in its configuration files.
// Proved by tests/vision/preprocess_test.cc (against torchvision and transformers).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quern/checkpoint/model_config.h"
#include "quern/vision/image.h"

namespace quern::vision {

struct VisionPreprocessConfig {
  int patch_size = 14;
  int temporal_patch_size = 2;
  int merge_size = 2;
  std::int64_t min_pixels = 3136;
  std::int64_t max_pixels = 451'584;
  std::int64_t max_frame_pixels = 602'112;  // of a frame of a video
  double video_fps = 1;                     // frames of a second that are looked at
  int segment_steps = 4;                    // temporal patches of a video that attend to each other
  std::array<float, 3> mean{};
  std::array<float, 3> std{};
  float rescale_factor = 1.0F / 255.0F;
  DecodeOptions decode;

  // Sides of a resized picture are multiples of it.
  int factor() const { return patch_size * merge_size; }
  // Of the largest picture that smart_resize() gives.
  std::int64_t max_image_tokens() const;
  std::int64_t max_image_patches() const { return max_image_tokens() * merge_size * merge_size; }
  // Of the largest segment of a video.
  std::int64_t max_segment_tokens() const;
  std::int64_t max_segment_patches() const {
    return max_segment_tokens() * merge_size * merge_size;
  }
};

// Refuses settings that the formulas here do not cover, by the key's name in
// preprocessor_config.json.
VisionPreprocessConfig make_preprocess_config(const PreprocessorConfig& file);

// Patches of a picture or video: t x h x w.
struct PatchGrid {
  int t = 0;
  int h = 0;
  int w = 0;

  std::int64_t patches() const { return std::int64_t{t} * h * w; }
  // Rows of the language model: `merge` x `merge` patches each.
  int tokens(int merge) const { return static_cast<int>(patches() / (merge * merge)); }
};

// The size that a picture is resized to. Throws an ImageError when one side is more than 200 times
// the other.
ImageSize smart_resize(ImageSize size, int factor, std::int64_t min_pixels,
                       std::int64_t max_pixels);

// What preprocess_image() will make of a picture of that size: its token count needs no pixels.
PatchGrid image_grid(ImageSize size, const VisionPreprocessConfig& config);

// Antialiased bicubic on bytes, equal to torchvision's v2 resize of a uint8 tensor.
RgbImage resize_bicubic(const RgbImage& image, ImageSize size);

// The tower's input. Patches in the order t, window row, window column, row and column inside the
// window of merge_size x merge_size; a patch is channel, temporal step, row, column.
struct ImagePatches {
  int grid_t = 0;
  int grid_h = 0;
  int grid_w = 0;
  std::vector<float> pixels;  // [grid_t * grid_h * grid_w, 3 * temporal * patch * patch]
  int num_tokens = 0;         // rows of features

  std::int64_t num_patches() const { return std::int64_t{grid_t} * grid_h * grid_w; }
};

// Thread-safe: meant for a worker thread, not for the one that drives the engine.
ImagePatches preprocess_image(std::span<const std::byte> bytes,
                              const VisionPreprocessConfig& config, const ImageLimits& limits);
ImagePatches preprocess_image(const RgbImage& image, const VisionPreprocessConfig& config);

// The frames of a video, all of one size; an odd last one is repeated (temporal patches of 2).
ImagePatches preprocess_frames(std::span<const RgbImage> frames,
                               const VisionPreprocessConfig& config);
// The same of frames that have their final size already, a multiple of config.factor().
ImagePatches frame_patches(std::span<const RgbImage> frames, const VisionPreprocessConfig& config);

}  // namespace quern::vision
