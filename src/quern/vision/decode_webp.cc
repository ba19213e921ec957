// WebP through libwebp. See decoders.h.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "quern/vision/decoders.h"

namespace quern::vision {
namespace {

const std::uint8_t* data(Bytes bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

WebPBitstreamFeatures features_of(Bytes bytes) {
  WebPBitstreamFeatures features;
  const VP8StatusCode status = WebPGetFeatures(data(bytes), bytes.size(), &features);
  if (status == VP8_STATUS_NOT_ENOUGH_DATA) throw ImageError("image file is truncated");
  if (status != VP8_STATUS_OK) throw ImageError("header is damaged");
  return features;
}

// The first frame, laid on the canvas as Pillow's decoder lays it.
void decode_animation(Bytes bytes, const DecodeOptions& options, RgbImage& image) {
  WebPAnimDecoderOptions settings;
  QUERN_CHECK(WebPAnimDecoderOptionsInit(&settings) != 0);
  settings.color_mode = MODE_RGBA;
  const WebPData input{data(bytes), bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&input, &settings), WebPAnimDecoderDelete);
  std::uint8_t* canvas = nullptr;
  int timestamp = 0;
  WebPAnimInfo info;
  if (decoder == nullptr || WebPAnimDecoderGetInfo(decoder.get(), &info) == 0 ||
      info.canvas_width != image.size.width || info.canvas_height != image.size.height ||
      WebPAnimDecoderGetNext(decoder.get(), &canvas, &timestamp) == 0) {
    throw ImageError("image file is damaged or truncated");
  }
  for (std::int64_t y = 0; y < image.size.height; ++y) {
    store_rgba_row(canvas + y * image.size.width * 4, options, y, image);
  }
}

void decode_still(Bytes bytes, bool rgba, const DecodeOptions& options, RgbImage& image) {
  const std::int64_t stride = image.size.width * (rgba ? 4 : 3);
  std::vector<std::uint8_t> pixels;
  if (rgba) pixels.resize(static_cast<std::size_t>(stride * image.size.height));
  std::vector<std::uint8_t>& out = rgba ? pixels : image.pixels;
  const auto decode = rgba ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  if (decode(data(bytes), bytes.size(), out.data(), out.size(), static_cast<int>(stride)) ==
      nullptr) {
    throw ImageError("image file is damaged or truncated");
  }
  if (!rgba) return;
  for (std::int64_t y = 0; y < image.size.height; ++y) {
    store_rgba_row(out.data() + y * stride, options, y, image);
  }
}

}  // namespace

ImageSize webp_size(Bytes bytes) {
  const WebPBitstreamFeatures features = features_of(bytes);
  return {features.width, features.height};
}

RgbImage decode_webp(Bytes bytes, const ImageLimits& limits, const DecodeOptions& options) {
  const WebPBitstreamFeatures features = features_of(bytes);
  const ImageSize size{features.width, features.height};
  const bool animated = features.has_animation != 0;
  const bool rgba = features.has_alpha != 0 && options.background.has_value();
  // The picture and the library's working picture (a word a pixel); of an animation two canvases
  // and a working picture more.
  check_size(size, animated ? 3 + 4 * 4 : 3 + 4 + (rgba ? 4 : 0), limits);
  RgbImage image = make_image(size);
  if (animated) {
    decode_animation(bytes, options, image);
  } else {
    decode_still(bytes, rgba, options, image);
  }
  return image;
}

}  // namespace quern::vision
