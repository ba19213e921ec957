// The format from the first bytes, limits, and what the decoders share. See image.h.
#include "quern/vision/image.h"

#include <array>
#include <cstring>

#include "quern/vision/decoders.h"

namespace quern::vision {
namespace {

bool starts_with(Bytes bytes, std::size_t offset, std::string_view magic) {
  return bytes.size() >= offset + magic.size() &&
         std::memcmp(bytes.data() + offset, magic.data(), magic.size()) == 0;
}

ImageFormat format_of(Bytes bytes) {
  using namespace std::string_view_literals;
  if (starts_with(bytes, 0, "\xFF\xD8\xFF"sv)) return ImageFormat::kJpeg;
  if (starts_with(bytes, 0, "\x89PNG\r\n\x1a\n"sv)) return ImageFormat::kPng;
  if (starts_with(bytes, 0, "RIFF"sv) && starts_with(bytes, 8, "WEBP"sv)) return ImageFormat::kWebp;
  if (starts_with(bytes, 0, "GIF87a"sv) || starts_with(bytes, 0, "GIF89a"sv))
    return ImageFormat::kGif;
  throw ImageError(
      "cannot identify image: the first bytes are none of JPEG, PNG, WebP or GIF ({} bytes)",
      bytes.size());
}

ImageSize size_of(ImageFormat format, Bytes bytes) {
  switch (format) {
    case ImageFormat::kJpeg:
      return jpeg_size(bytes);
    case ImageFormat::kPng:
      return png_size(bytes);
    case ImageFormat::kWebp:
      return webp_size(bytes);
    case ImageFormat::kGif:
      return gif_size(bytes);
  }
  QUERN_CHECK(false);
}

}  // namespace

std::string_view format_name(ImageFormat format) {
  constexpr std::array<std::string_view, 4> kNames{"JPEG", "PNG", "WebP", "GIF"};
  return kNames.at(static_cast<std::size_t>(format));
}

void check_size(ImageSize size, std::int64_t bytes_per_pixel, const ImageLimits& limits) {
  if (size.width <= 0 || size.height <= 0) {
    throw ImageError("image is empty: {} x {} pixels", size.width, size.height);
  }
  // A header may name sides of 32 bits: their product is formed when it is known to be small.
  if (size.height > limits.max_pixels / size.width) {
    throw ImageError("image of {} x {} pixels exceeds the limit of {} pixels", size.width,
                     size.height, limits.max_pixels);
  }
  const std::int64_t pixels = size.width * size.height;
  if (static_cast<std::size_t>(pixels) >
      limits.max_memory / static_cast<std::size_t>(bytes_per_pixel)) {
    throw ImageError("image of {} x {} pixels would take {} bytes to decode, the limit is {}",
                     size.width, size.height, pixels * bytes_per_pixel, limits.max_memory);
  }
}

ImageInfo probe_image(Bytes bytes, const ImageLimits& limits) {
  if (bytes.size() > limits.max_bytes) {
    throw ImageError("image of {} bytes exceeds the limit of {} bytes", bytes.size(),
                     limits.max_bytes);
  }
  const ImageFormat format = format_of(bytes);
  return with_context(format_name(format), [&] {
    const ImageSize size = size_of(format, bytes);
    check_size(size, 3, limits);
    return ImageInfo{format, size};
  });
}

RgbImage decode_image(Bytes bytes, const ImageLimits& limits, const DecodeOptions& options) {
  const ImageFormat format = probe_image(bytes, limits).format;
  return with_context(format_name(format), [&] {
    switch (format) {
      case ImageFormat::kJpeg:
        return decode_jpeg(bytes, limits);
      case ImageFormat::kPng:
        return decode_png(bytes, limits, options);
      case ImageFormat::kWebp:
        return decode_webp(bytes, limits, options);
      case ImageFormat::kGif:
        return decode_gif(bytes, limits);
    }
    QUERN_CHECK(false);
  });
}

RgbImage make_image(ImageSize size) {
  return {size, std::vector<std::uint8_t>(static_cast<std::size_t>(size.width * size.height * 3))};
}

void store_rgba_row(const std::uint8_t* rgba, const DecodeOptions& options, std::int64_t y,
                    RgbImage& image) {
  std::uint8_t* out = mutable_row(image, y);
  for (std::int64_t x = 0; x < image.size.width; ++x, rgba += 4, out += 3) {
    if (!options.background) {
      std::memcpy(out, rgba, 3);
      continue;
    }
    const std::uint32_t alpha = rgba[3];
    for (std::size_t c = 0; c < 3; ++c) {
      const std::uint32_t t = (*options.background)[c] * (255 - alpha) + rgba[c] * alpha + 128;
      out[c] = static_cast<std::uint8_t>(((t >> 8U) + t) >> 8U);
    }
  }
}

}  // namespace quern::vision
