// PNG through libpng. See decoders.h. Errors leave the library by longjmp to a frame that holds no
// C++ objects; everything that owns memory lives in the caller's PngDecoder.
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "quern/vision/decoders.h"

namespace quern::vision {
namespace {

constexpr std::size_t kHeaderBytes = 8 + 8 + 13;  // signature, length and name, IHDR

std::int64_t big_endian(Bytes bytes, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    value = value << 8U | std::to_integer<std::uint32_t>(bytes[offset + i]);
  }
  return value;
}

class PngDecoder {
 public:
  explicit PngDecoder(Bytes bytes) : rest_(bytes) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw Error("libpng: cannot start");
    }
  }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

  ImageSize read_header() {
    check([](PngDecoder& self, RgbImage*) { self.header(); }, nullptr);
    return {png_get_image_width(png_, info_), png_get_image_height(png_, info_)};
  }

  // At the peak: the picture, and of an interlaced one also all rows as the library gives them.
  std::int64_t bytes_per_pixel() const {
    return 3 + (interlaced() ? static_cast<std::int64_t>(kWidest) : 0);
  }

  void read_pixels(RgbImage& image, const DecodeOptions& options) {
    options_ = &options;
    choose_transforms();
    rows_.resize(row_bytes_ *
                 (interlaced() ? static_cast<std::size_t>(image.size.height) : std::size_t{1}));
    check([](PngDecoder& self, RgbImage* out) { self.pixels(*out); }, &image);
  }

 private:
  using Action = void (*)(PngDecoder&, RgbImage*);
  enum class Rows { kRgb, kRgba, kGray16 };
  static constexpr std::size_t kWidest = 4;  // bytes of a pixel of Rows

  static PngDecoder& self(png_structp png) {
    return *static_cast<PngDecoder*>(png_get_error_ptr(png));
  }
  static void on_error(png_structp png, png_const_charp message) {
    std::snprintf(self(png).message_, sizeof self(png).message_, "%s", message);
    std::longjmp(self(png).jump_, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep out, std::size_t count) {
    Bytes& rest = static_cast<PngDecoder*>(png_get_io_ptr(png))->rest_;
    if (count > rest.size()) png_error(png, "image file is truncated");
    std::memcpy(out, rest.data(), count);
    rest = rest.subspan(count);
  }

  void check(Action action, RgbImage* image) {
    if (!succeeds(action, image)) throw ImageError("{}", message_);
  }
  bool succeeds(Action action, RgbImage* image) {
    if (setjmp(jump_) != 0) return false;
    action(*this, image);
    return true;
  }

  bool interlaced() const { return png_get_interlace_type(png_, info_) != PNG_INTERLACE_NONE; }

  void header() {
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_size() decides
    // Text, profiles and the like are stepped over: nothing in them is used, and they may be
    // compressed bombs.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png_, info_);
  }

  // Every kind of picture becomes one of three kinds of rows. 16-bit grey is Pillow's mode I;16,
  // which its convert() clips at 255; 16-bit colours lose their low byte.
  void choose_transforms() {
    const int type = png_get_color_type(png_, info_);
    const int depth = png_get_bit_depth(png_, info_);
    if (type == PNG_COLOR_TYPE_GRAY && depth == 16) {
      kind_ = Rows::kGray16;
      row_bytes_ = std::size_t{2} * png_get_image_width(png_, info_);
      return;
    }
    // What Pillow opens as RGBA; its LA loses alpha in any case.
    const bool rgba =
        type == PNG_COLOR_TYPE_RGB_ALPHA || (type == PNG_COLOR_TYPE_GRAY_ALPHA && depth == 16);
    const bool keep_alpha = rgba && options_->background.has_value();
    kind_ = keep_alpha ? Rows::kRgba : Rows::kRgb;
    if (depth == 16) png_set_strip_16(png_);
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
    if ((type & PNG_COLOR_MASK_COLOR) == 0) {
      if (depth < 8) png_set_expand_gray_1_2_4_to_8(png_);
      png_set_gray_to_rgb(png_);
    }
    if (!keep_alpha) png_set_strip_alpha(png_);
    row_bytes_ = (keep_alpha ? std::size_t{4} : std::size_t{3}) * png_get_image_width(png_, info_);
  }

  void pixels(RgbImage& image) {
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (png_get_rowbytes(png_, info_) != row_bytes_) png_error(png_, "unexpected row size");
    for (int pass = 0; pass < passes; ++pass) {
      for (std::int64_t y = 0; y < image.size.height; ++y) {
        std::uint8_t* row =
            rows_.data() + (passes > 1 ? static_cast<std::size_t>(y) * row_bytes_ : 0);
        png_read_row(png_, row, nullptr);
        if (pass + 1 == passes) store_row(row, y, image);
      }
    }
  }

  void store_row(const std::uint8_t* row, std::int64_t y, RgbImage& image) const {
    switch (kind_) {
      case Rows::kRgb:
        std::copy_n(row, row_bytes_, mutable_row(image, y));
        return;
      case Rows::kRgba:
        store_rgba_row(row, *options_, y, image);
        return;
      case Rows::kGray16:
        for (std::int64_t x = 0; x < image.size.width; ++x) {
          const std::uint8_t value = row[2 * x] != 0 ? std::uint8_t{255} : row[2 * x + 1];
          std::fill_n(mutable_row(image, y) + 3 * x, 3, value);
        }
        return;
    }
  }

  Bytes rest_;
  const DecodeOptions* options_ = nullptr;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf jump_{};
  char message_[256]{};
  Rows kind_ = Rows::kRgb;
  std::size_t row_bytes_ = 0;
  std::vector<std::uint8_t> rows_;
};

}  // namespace

ImageSize png_size(Bytes bytes) {
  if (bytes.size() < kHeaderBytes || std::memcmp(bytes.data() + 12, "IHDR", 4) != 0) {
    throw ImageError("no header");
  }
  return {big_endian(bytes, 16), big_endian(bytes, 20)};
}

RgbImage decode_png(Bytes bytes, const ImageLimits& limits, const DecodeOptions& options) {
  PngDecoder decoder(bytes);
  const ImageSize size = decoder.read_header();
  check_size(size, decoder.bytes_per_pixel(), limits);
  RgbImage image = make_image(size);
  decoder.read_pixels(image, options);
  return image;
}

}  // namespace quern::vision
