// Pictures from bytes that nobody trusts: what is in them (probe) and their RGB pixels (decode).
// Must never allocate for pixels before the header has passed the limits, or believe a media type.
// Proved by tests/vision/decode_test.cc and tests/vision/hostile_image_test.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "quern/base/error.h"

namespace quern::vision {

// The picture is at fault, not the program: a server answers it with 400.
class ImageError : public Error {
 public:
  using Error::Error;
};

// Checked from the header, before pixels are allocated or decoded.
struct ImageLimits {
  std::size_t max_bytes = std::size_t{64} << 20;  // of the encoded picture
  std::int64_t max_pixels = 89'478'485;           // width x height; where Pillow begins to warn
  // What decoding one picture may take at its peak: pixels, the decoder's own buffers, the resize.
  std::size_t max_memory = std::size_t{1} << 30;
};

enum class ImageFormat : std::uint8_t { kJpeg, kPng, kWebp, kGif };
std::string_view format_name(ImageFormat format);

struct ImageSize {
  std::int64_t width = 0;
  std::int64_t height = 0;
};

struct ImageInfo {
  ImageFormat format = ImageFormat::kPng;
  ImageSize size;
};

// Reads the header only. Throws an ImageError for an unknown format, a header that cannot be right
// or a picture beyond the limits.
ImageInfo probe_image(std::span<const std::byte> bytes, const ImageLimits& limits);

// width x height x 3, rows from the top, as Pillow's convert("RGB") gives them.
struct RgbImage {
  ImageSize size;
  std::vector<std::uint8_t> pixels;

  const std::uint8_t* row(std::int64_t y) const { return pixels.data() + y * size.width * 3; }
};

struct DecodeOptions {
  // Where a picture has an alpha channel (not a transparent palette entry): nothing = alpha is
  // dropped (Pillow's convert, the model's own processor); a colour = the picture is laid over it
  // (vLLM's media loader: white).
  std::optional<std::array<std::uint8_t, 3>> background;
};

// The picture, of an animation the first frame. EXIF orientation is ignored, as Pillow ignores it.
RgbImage decode_image(std::span<const std::byte> bytes, const ImageLimits& limits,
                      const DecodeOptions& options = {});

}  // namespace quern::vision
