// JPEG through libjpeg. See decoders.h. Errors leave the library by longjmp to a frame that holds
// no C++ objects; everything that owns memory lives in the caller's JpegDecoder.
#include <csetjmp>
#include <cstdio>
// After cstdio, which jpeglib.h needs.
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <string>
#include <vector>

#include "quern/vision/decoders.h"

namespace quern::vision {
namespace {

// A progressive picture of many tiny scans costs time out of proportion to its bytes: every scan
// passes over all coefficients. Encoders write 10 or so.
constexpr int kMaxScans = 100;

struct ErrorState {
  jpeg_error_mgr manager;  // first, so that libjpeg's pointer to it is one to this
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* state = reinterpret_cast<ErrorState*>(info->err);
  info->err->format_message(info, state->message);
  std::longjmp(state->jump, 1);
}

[[noreturn]] void leave_with(j_common_ptr info, const char* message) {
  auto* state = reinterpret_cast<ErrorState*>(info->err);
  std::snprintf(state->message, sizeof state->message, "%s", message);
  std::longjmp(state->jump, 1);
}

// Warnings (damaged entropy data) are accepted, as Pillow accepts them.
void ignore_message(j_common_ptr, int) {}

void no_op(j_decompress_ptr) {}
boolean out_of_data(j_decompress_ptr info) {
  leave_with(reinterpret_cast<j_common_ptr>(info), "image file is truncated");
}
void skip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<std::size_t>(count) > info->src->bytes_in_buffer) out_of_data(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
}

void watch_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    leave_with(info, "too many scans");
  }
}

// The library's state; destroyed with this object, whatever happened.
class JpegDecoder {
 public:
  explicit JpegDecoder(Bytes bytes) {
    info_.err = jpeg_std_error(&error_.manager);
    error_.manager.error_exit = leave;
    error_.manager.emit_message = ignore_message;
    check([](JpegDecoder& self, RgbImage*) { jpeg_create_decompress(&self.info_); }, nullptr);
    source_.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
    source_.bytes_in_buffer = bytes.size();
    source_.init_source = no_op;
    source_.fill_input_buffer = out_of_data;
    source_.skip_input_data = skip;
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.term_source = no_op;
    info_.src = &source_;
    progress_.progress_monitor = watch_scans;
    info_.progress = &progress_;
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() { jpeg_destroy_decompress(&info_); }

  ImageSize read_header() {
    check([](JpegDecoder& self, RgbImage*) { jpeg_read_header(&self.info_, TRUE); }, nullptr);
    return {info_.image_width, info_.image_height};
  }

  // At the peak: the picture, and of a progressive one all coefficients at full resolution.
  std::int64_t bytes_per_pixel() {
    const bool whole = jpeg_has_multiple_scans(&info_) != FALSE;
    return 3 + (whole ? std::int64_t{2} * info_.num_components : 0);
  }

  void read_pixels(RgbImage& image) {
    if (info_.num_components != 1 && info_.num_components != 3 && info_.num_components != 4) {
      throw ImageError("cannot handle {} components", info_.num_components);
    }
    info_.out_color_space = info_.num_components == 1   ? JCS_GRAYSCALE
                            : info_.num_components == 3 ? JCS_RGB
                                                        : JCS_CMYK;
    row_.resize(info_.image_width * static_cast<std::size_t>(info_.num_components));
    check(
        [](JpegDecoder& self, RgbImage* out) {
          jpeg_start_decompress(&self.info_);
          while (self.info_.output_scanline < self.info_.output_height) {
            JSAMPROW row = self.row_.data();
            const std::int64_t y = self.info_.output_scanline;
            jpeg_read_scanlines(&self.info_, &row, 1);
            self.store_row(mutable_row(*out, y));
          }
          jpeg_finish_decompress(&self.info_);  // reads to the end marker
        },
        &image);
  }

 private:
  using Action = void (*)(JpegDecoder&, RgbImage*);

  void check(Action action, RgbImage* image) {
    if (!succeeds(action, image)) throw ImageError("{}", error_.message);
  }

  bool succeeds(Action action, RgbImage* image) {
    if (setjmp(error_.jump) != 0) return false;
    action(*this, image);
    return true;
  }

  void store_row(std::uint8_t* out) const {
    const std::size_t width = info_.image_width;
    const JSAMPLE* in = row_.data();
    if (info_.num_components == 3) {
      std::copy_n(in, 3 * width, out);
      return;
    }
    if (info_.num_components == 1) {
      for (std::size_t x = 0; x < width; ++x) std::fill_n(out + 3 * x, 3, in[x]);
      return;
    }
    // Four components are Adobe's, stored inverted: what lies there is 255 - C, ..., 255 - K.
    for (std::size_t x = 0; x < width; ++x, in += 4, out += 3) {
      const std::uint32_t light = in[3];
      for (std::size_t c = 0; c < 3; ++c) {
        out[c] = static_cast<std::uint8_t>(light - multiply_255(255U - in[c], light));
      }
    }
  }

  jpeg_decompress_struct info_{};
  ErrorState error_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  std::vector<JSAMPLE> row_;
};

}  // namespace

ImageSize jpeg_size(Bytes bytes) { return JpegDecoder(bytes).read_header(); }

RgbImage decode_jpeg(Bytes bytes, const ImageLimits& limits) {
  JpegDecoder decoder(bytes);
  const ImageSize size = decoder.read_header();
  check_size(size, decoder.bytes_per_pixel(), limits);
  RgbImage image = make_image(size);
  decoder.read_pixels(image);
  return image;
}

}  // namespace quern::vision
