// The first frame of a GIF through giflib. See decoders.h. Records are read one by one: the
// library's own slurp would keep every frame of a long animation.
#include <gif_lib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>

#include "quern/vision/decoders.h"

namespace quern::vision {
namespace {

[[noreturn]] void fail(int code) {
  // The library names the part that it could not read in full.
  if (code == D_GIF_ERR_READ_FAILED || code == D_GIF_ERR_EOF_TOO_SOON ||
      code == D_GIF_ERR_NO_SCRN_DSCR) {
    throw ImageError("image file is truncated");
  }
  const char* text = GifErrorString(code);
  throw ImageError("{}", text != nullptr ? text : "file is damaged");
}

struct CloseGif {
  void operator()(GifFileType* gif) const { DGifCloseFile(gif, nullptr); }
};

// Position of each row of a frame in the order of the file.
class RowOrder {
 public:
  RowOrder(std::int64_t height, bool interlaced) : height_(height), interlaced_(interlaced) {}
  std::int64_t next() {
    const std::int64_t row = next_;
    if (!interlaced_) {
      ++next_;
      return row;
    }
    constexpr std::array<std::int64_t, 4> kFirst{0, 4, 2, 1}, kStep{8, 8, 4, 2};
    next_ += kStep[pass_];
    while (next_ >= height_ && pass_ + 1 < kFirst.size()) next_ = kFirst[++pass_];
    return row;
  }

 private:
  std::int64_t height_;
  bool interlaced_;
  std::int64_t next_ = 0;
  std::size_t pass_ = 0;
};

class Decoder {
 public:
  explicit Decoder(Bytes bytes) : rest_(bytes) {
    int code = D_GIF_SUCCEEDED;
    gif_.reset(DGifOpen(this, read, &code));
    if (gif_ == nullptr) fail(code);
  }

  // Steps to the first frame. Pillow's canvas grows when that frame reaches over the screen.
  ImageSize read_header() {
    for (;;) {
      GifRecordType type = UNDEFINED_RECORD_TYPE;
      check(DGifGetRecordType(gif_.get(), &type));
      if (type == IMAGE_DESC_RECORD_TYPE) break;
      if (type != EXTENSION_RECORD_TYPE) throw ImageError("file holds no image");
      read_extension();
    }
    check(DGifGetImageHeader(gif_.get()));
    const GifImageDesc& frame = gif_->Image;
    return {std::max<std::int64_t>(gif_->SWidth, std::int64_t{frame.Left} + frame.Width),
            std::max<std::int64_t>(gif_->SHeight, std::int64_t{frame.Top} + frame.Height)};
  }

  void read_pixels(RgbImage& image) {
    read_palette();
    // What the frame leaves free shows the transparent colour, else the first.
    const auto& free = palette_[static_cast<std::size_t>(transparent_.value_or(0))];
    for (std::size_t i = 0; i < image.pixels.size(); i += 3)
      std::copy_n(free.data(), 3, image.pixels.data() + i);
    const GifImageDesc& frame = gif_->Image;
    std::vector<GifPixelType> line(static_cast<std::size_t>(frame.Width));
    RowOrder order(frame.Height, frame.Interlace);
    for (int i = 0; i < frame.Height; ++i) {
      check(DGifGetLine(gif_.get(), line.data(), frame.Width));
      std::uint8_t* out = mutable_row(image, frame.Top + order.next()) + 3 * frame.Left;
      for (const GifPixelType index : line) {
        out = std::copy_n(palette_[index].data(), 3, out);
      }
    }
  }

 private:
  static int read(GifFileType* gif, GifByteType* out, int count) {
    Bytes& rest = static_cast<Decoder*>(gif->UserData)->rest_;
    const std::size_t size = std::min(rest.size(), static_cast<std::size_t>(count));
    if (size > 0) std::memcpy(out, rest.data(), size);
    rest = rest.subspan(size);
    return static_cast<int>(size);
  }

  void check(int status) {
    if (status == GIF_ERROR) fail(gif_->Error);
  }

  void read_extension() {
    int code = 0;
    GifByteType* block = nullptr;
    check(DGifGetExtension(gif_.get(), &code, &block));
    if (code == GRAPHICS_EXT_FUNC_CODE && block != nullptr) {
      GraphicsControlBlock control{};
      if (DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK) {
        transparent_.reset();
        if (control.TransparentColor != NO_TRANSPARENT_COLOR)
          transparent_ = control.TransparentColor;
      }
    }
    while (block != nullptr) check(DGifGetExtensionNext(gif_.get(), &block));
  }

  // Indices behind the map are black; a file without a map is grey.
  void read_palette() {
    const ColorMapObject* map =
        gif_->Image.ColorMap != nullptr ? gif_->Image.ColorMap : gif_->SColorMap;
    for (std::size_t i = 0; i < palette_.size(); ++i) {
      if (map == nullptr) {
        palette_[i].fill(static_cast<std::uint8_t>(i));
      } else if (i < static_cast<std::size_t>(map->ColorCount)) {
        palette_[i] = {map->Colors[i].Red, map->Colors[i].Green, map->Colors[i].Blue};
      }
    }
  }

  Bytes rest_;
  std::unique_ptr<GifFileType, CloseGif> gif_;
  std::optional<int> transparent_;
  std::array<std::array<std::uint8_t, 3>, 256> palette_{};
};

}  // namespace

ImageSize gif_size(Bytes bytes) { return Decoder(bytes).read_header(); }

RgbImage decode_gif(Bytes bytes, const ImageLimits& limits) {
  Decoder decoder(bytes);
  const ImageSize size = decoder.read_header();
  check_size(size, 3, limits);
  RgbImage image = make_image(size);
  decoder.read_pixels(image);
  return image;
}

}  // namespace quern::vision
