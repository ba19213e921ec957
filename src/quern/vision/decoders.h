// One decoder a format, each on its well-kept library. Must never be included outside this folder,
// let a C library jump over a destructor, or allocate for pixels before check_size().
// Proved by tests/vision/decode_test.cc and tests/vision/hostile_image_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quern/vision/image.h"

namespace quern::vision {

using Bytes = std::span<const std::byte>;

// Throws an ImageError when the picture is empty, beyond the limits, or when decoding would take
// more than limits.max_memory: bytes_per_pixel counts what is alive at the peak.
void check_size(ImageSize size, std::int64_t bytes_per_pixel, const ImageLimits& limits);

// Width and height from the header.
ImageSize jpeg_size(Bytes bytes);
ImageSize png_size(Bytes bytes);
ImageSize webp_size(Bytes bytes);
ImageSize gif_size(Bytes bytes);

RgbImage decode_jpeg(Bytes bytes, const ImageLimits& limits);
RgbImage decode_png(Bytes bytes, const ImageLimits& limits, const DecodeOptions& options);
RgbImage decode_webp(Bytes bytes, const ImageLimits& limits, const DecodeOptions& options);
RgbImage decode_gif(Bytes bytes, const ImageLimits& limits);

// A black picture of a size that has been checked.
RgbImage make_image(ImageSize size);

// Row y of `image` = `rgba` laid over the background, as Pillow pastes with a mask; without a
// background alpha is dropped.
void store_rgba_row(const std::uint8_t* rgba, const DecodeOptions& options, std::int64_t y,
                    RgbImage& image);

inline std::uint8_t* mutable_row(RgbImage& image, std::int64_t y) {
  return image.pixels.data() + y * image.size.width * 3;
}

// a * b / 255 as Pillow rounds it.
constexpr std::uint32_t multiply_255(std::uint32_t a, std::uint32_t b) {
  const std::uint32_t t = a * b + 128;
  return ((t >> 8U) + t) >> 8U;
}

}  // namespace quern::vision
