// Size rule, normalisation and patch order (transformers minimax_m3_vl, vLLM models/minimax_m3).
// See preprocess.h.
#include "quern/vision/preprocess.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace quern::vision {
namespace {

constexpr double kMaxRatio = 200.0;

// As Python prints a float: always with a point.
std::string python_float(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// A multiple of `factor`, at least one: of a count that was rounded in the way of the caller.
std::int64_t multiple(double count, int factor) {
  return std::max<std::int64_t>(static_cast<std::int64_t>(count), 1) * factor;
}

// What each byte of each channel becomes.
std::array<std::array<float, 256>, 3> normalized_bytes(const VisionPreprocessConfig& config) {
  std::array<std::array<float, 256>, 3> table{};
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t v = 0; v < 256; ++v) {
      const float unit = static_cast<float>(v) * config.rescale_factor;
      table[c][v] = (unit - config.mean[c]) / config.std[c];
    }
  }
  return table;
}

// Writes patches; `frames` are resized pictures of one size, temporal_patch_size for each t.
class PatchWriter {
 public:
  PatchWriter(const VisionPreprocessConfig& config, ImageSize size, int grid_t)
      : config_(config), table_(normalized_bytes(config)) {
    out_.grid_t = grid_t;
    out_.grid_h = static_cast<int>(size.height) / config.patch_size;
    out_.grid_w = static_cast<int>(size.width) / config.patch_size;
    out_.num_tokens = PatchGrid{grid_t, out_.grid_h, out_.grid_w}.tokens(config.merge_size);
    const std::int64_t patch =
        std::int64_t{3} * config.temporal_patch_size * config.patch_size * config.patch_size;
    out_.pixels.resize(static_cast<std::size_t>(out_.num_patches() * patch));
  }

  // One picture into slice `step` of temporal patch t.
  void write(const RgbImage& image, int t, int step) {
    const int merge = config_.merge_size;
    std::int64_t patch = std::int64_t{t} * out_.grid_h * out_.grid_w;
    for (int window_row = 0; window_row < out_.grid_h; window_row += merge) {
      for (int window_col = 0; window_col < out_.grid_w; window_col += merge) {
        for (int row = window_row; row < window_row + merge; ++row) {
          for (int col = window_col; col < window_col + merge; ++col) {
            write_patch(image, row, col, step, patch++);
          }
        }
      }
    }
  }

  ImagePatches take() { return std::move(out_); }

 private:
  void write_patch(const RgbImage& image, int row, int col, int step, std::int64_t patch) {
    const std::int64_t side = config_.patch_size;
    const std::int64_t steps = config_.temporal_patch_size;
    for (std::int64_t c = 0; c < 3; ++c) {
      const auto& table = table_[static_cast<std::size_t>(c)];
      float* to = out_.pixels.data() + ((patch * 3 + c) * steps + step) * side * side;
      for (std::int64_t y = 0; y < side; ++y) {
        const std::uint8_t* from = image.row(row * side + y) + col * side * 3 + c;
        for (std::int64_t x = 0; x < side; ++x) *to++ = table[from[3 * x]];
      }
    }
  }

  const VisionPreprocessConfig& config_;
  std::array<std::array<float, 256>, 3> table_;
  ImagePatches out_;
};

// No result of smart_resize() has more windows of factor x factor pixels. Three cases, sides in
// windows: x y <= max_pixels / factor^2; one side raised to 1, the other at most
// sqrt(kMaxRatio max_pixels) / factor; or both rounded up behind x y = m = min_pixels / factor^2:
// (x + 1) (y + 1) = m + x + y + 1, where x + y <= sqrt(m) (sqrt(kMaxRatio) + 1 / sqrt(kMaxRatio)).
std::int64_t largest_windows(std::int64_t factor, std::int64_t min_pixels,
                             std::int64_t max_pixels) {
  const auto side = static_cast<double>(factor);
  const double strip = std::sqrt(kMaxRatio * static_cast<double>(max_pixels)) / side;
  const double m = static_cast<double>(min_pixels) / (side * side);
  const double enlarged = m + std::sqrt(m) * (std::sqrt(kMaxRatio) + 1 / std::sqrt(kMaxRatio)) + 1;
  return std::max(
      {max_pixels / (factor * factor), static_cast<std::int64_t>(strip),
       min_pixels > factor * factor ? static_cast<std::int64_t>(enlarged) : std::int64_t{1}});
}

}  // namespace

std::int64_t VisionPreprocessConfig::max_image_tokens() const {
  return largest_windows(factor(), min_pixels, max_pixels);
}

std::int64_t VisionPreprocessConfig::max_segment_tokens() const {
  return segment_steps * largest_windows(factor(), min_pixels, max_frame_pixels);
}

VisionPreprocessConfig make_preprocess_config(const PreprocessorConfig& file) {
  const auto require = [](bool supported, std::string_view key, const auto& value) {
    if (!supported) throw Error("preprocessor_config.json: {}: {} is not supported", key, value);
  };
  constexpr std::int64_t kBicubic = 3;
  require(file.do_resize, "do_resize", false);
  require(file.do_rescale, "do_rescale", false);
  require(file.do_normalize, "do_normalize", false);
  require(file.do_convert_rgb, "do_convert_rgb", false);
  require(file.resample == kBicubic, "resample", file.resample);
  require(file.process_image_mode == "dynamic_res", "process_image_mode", file.process_image_mode);
  // A picture of max_pixels has to fit 32-bit sides and indices.
  require(file.max_pixels <= std::int64_t{1} << 30, "max_pixels", file.max_pixels);
  VisionPreprocessConfig config;
  config.patch_size = static_cast<int>(file.patch_size);
  config.temporal_patch_size = static_cast<int>(file.temporal_patch_size);
  config.merge_size = static_cast<int>(file.merge_size);
  const std::int64_t factor = file.patch_size * file.merge_size;
  require(factor * factor <= file.max_pixels, "max_pixels", file.max_pixels);
  config.min_pixels = file.min_pixels;
  config.max_pixels = file.max_pixels;
  config.rescale_factor = static_cast<float>(file.rescale_factor);
  for (std::size_t c = 0; c < 3; ++c) {
    config.mean[c] = static_cast<float>(file.image_mean[c]);
    config.std[c] = static_cast<float>(file.image_std[c]);
  }
  return config;
}

ImageSize smart_resize(ImageSize size, int factor, std::int64_t min_pixels,
                       std::int64_t max_pixels) {
  const auto height = static_cast<double>(size.height);
  const auto width = static_cast<double>(size.width);
  const double ratio = std::max(height, width) / std::min(height, width);
  if (ratio > kMaxRatio) {
    throw ImageError("absolute aspect ratio must be smaller than 200, got {}", python_float(ratio));
  }
  const double side = factor;
  // nearbyint rounds halves to even, as Python's round().
  ImageSize out{multiple(std::nearbyint(width / side), factor),
                multiple(std::nearbyint(height / side), factor)};
  if (out.height * out.width > max_pixels) {
    const double beta = std::sqrt(height * width / static_cast<double>(max_pixels));
    out = {multiple(std::floor(width / beta / side), factor),
           multiple(std::floor(height / beta / side), factor)};
  } else if (out.height * out.width < min_pixels) {
    const double beta = std::sqrt(static_cast<double>(min_pixels) / (height * width));
    out = {multiple(std::ceil(width * beta / side), factor),
           multiple(std::ceil(height * beta / side), factor)};
  }
  return out;
}

PatchGrid image_grid(ImageSize size, const VisionPreprocessConfig& config) {
  const ImageSize resized =
      smart_resize(size, config.factor(), config.min_pixels, config.max_pixels);
  return {1, static_cast<int>(resized.height) / config.patch_size,
          static_cast<int>(resized.width) / config.patch_size};
}

ImagePatches preprocess_image(const RgbImage& image, const VisionPreprocessConfig& config) {
  const ImageSize size =
      smart_resize(image.size, config.factor(), config.min_pixels, config.max_pixels);
  const RgbImage resized = resize_bicubic(image, size);
  PatchWriter writer(config, size, 1);
  for (int step = 0; step < config.temporal_patch_size; ++step) writer.write(resized, 0, step);
  return writer.take();
}

ImagePatches preprocess_image(std::span<const std::byte> bytes,
                              const VisionPreprocessConfig& config, const ImageLimits& limits) {
  // The size rule first: a picture that it refuses is not decoded.
  image_grid(probe_image(bytes, limits).size, config);
  return preprocess_image(decode_image(bytes, limits, config.decode), config);
}

ImagePatches preprocess_frames(std::span<const RgbImage> frames,
                               const VisionPreprocessConfig& config) {
  if (frames.empty()) throw ImageError("video has no frames");
  const ImageSize original = frames.front().size;
  const ImageSize size =
      smart_resize(original, config.factor(), config.min_pixels, config.max_frame_pixels);
  std::vector<RgbImage> resized;
  for (const RgbImage& frame : frames) {
    if (frame.size.width != original.width || frame.size.height != original.height) {
      throw ImageError("frame {} of the video is {} x {} pixels, the first is {} x {}",
                       resized.size(), frame.size.width, frame.size.height, original.width,
                       original.height);
    }
    resized.push_back(resize_bicubic(frame, size));
  }
  return frame_patches(resized, config);
}

ImagePatches frame_patches(std::span<const RgbImage> frames, const VisionPreprocessConfig& config) {
  QUERN_CHECK(!frames.empty());
  const int steps = config.temporal_patch_size;
  const int last = static_cast<int>(frames.size()) - 1;
  const int grid_t = last / steps + 1;
  PatchWriter writer(config, frames.front().size, grid_t);
  for (int i = 0; i < grid_t * steps; ++i)
    writer.write(frames[static_cast<std::size_t>(std::min(i, last))], i / steps, i % steps);
  return writer.take();
}

}  // namespace quern::vision
