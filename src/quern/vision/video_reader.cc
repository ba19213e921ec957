// Frames through FFmpeg's libraries. See video.h. Container and codec are chosen here, not probed,
// and what a file can make the libraries allocate or do is bounded.
#include "quern/vision/video.h"

#ifdef QUERN_VIDEO

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/log.h>
#include <libavutil/mem.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <ctime>
#include <mutex>
#include <string>
#include <string_view>

namespace quern::vision {
namespace {

using Bytes = std::span<const std::byte>;

constexpr int kIoBufferBytes = 64 << 10;
// One allocation of the libraries: a frame of VideoLimits::max_pixels with 16 bits in 4:4:4 fits.
constexpr std::size_t kMaxAllocationBytes = std::size_t{128} << 20;
constexpr const char* kMaxStreams = "16";
// Decoders that may be opened while the header is read.
constexpr const char* kCodecs = "h264,hevc,vp8,vp9,libdav1d,av1,mpeg4";
constexpr std::array kCodecIds{AV_CODEC_ID_H264, AV_CODEC_ID_HEVC, AV_CODEC_ID_VP8,
                               AV_CODEC_ID_VP9,  AV_CODEC_ID_AV1,  AV_CODEC_ID_MPEG4};

// Decoders work with whole blocks and hold the frames that others refer to, whatever a file's level
// allows: 16 (H.264, HEVC), the one at work and the one given out.
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kEdge = 32;  // on each side, which motion vectors may point to
constexpr std::int64_t kMaxHeldFrames = 18;
constexpr std::int64_t kMaxBits = 48;  // of a pixel: 16 bits in 4:4:4

template <auto free>
struct FreeThrough {
  template <typename T>
  void operator()(T* pointer) const {
    free(&pointer);
  }
};
struct FreeScaler {
  void operator()(SwsContext* context) const { sws_freeContext(context); }
};
struct FreeIo {
  void operator()(AVIOContext* io) const {
    av_freep(&io->buffer);  // which may be another than the one it was made with
    avio_context_free(&io);
  }
};

std::string error_text(int code) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
  av_strerror(code, text.data(), text.size());
  return text.data();
}

void quiet_libraries() {
  static std::once_flag once;
  std::call_once(once, [] {
    av_log_set_level(AV_LOG_QUIET);
    av_max_alloc(kMaxAllocationBytes);
  });
}

// The demuxer by the first bytes; the libraries' own guess could choose any that is compiled in.
const AVInputFormat* container_of(Bytes bytes) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                              std::min<std::size_t>(bytes.size(), 8));
  using namespace std::string_view_literals;
  if (head.starts_with("\x1A\x45\xDF\xA3"sv)) return av_find_input_format("matroska");
  for (const std::string_view box : {"ftyp"sv, "moov"sv, "mdat"sv, "free"sv, "wide"sv, "skip"sv}) {
    if (head.size() == 8 && head.substr(4) == box) return av_find_input_format("mov");
  }
  throw ImageError("cannot identify video: the first bytes are neither MP4 nor WebM ({} bytes)",
                   bytes.size());
}

double thread_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// A quarter turn clockwise.
RgbImage turned(const RgbImage& image) {
  RgbImage out{{image.size.height, image.size.width},
               std::vector<std::uint8_t>(image.pixels.size())};
  for (std::int64_t y = 0; y < out.size.height; ++y) {
    std::uint8_t* to = out.pixels.data() + y * out.size.width * 3;
    for (std::int64_t x = 0; x < out.size.width; ++x, to += 3)
      std::memcpy(to, image.row(image.size.height - 1 - x) + y * 3, 3);
  }
  return out;
}

// Quarter turns clockwise by which the container asks to show the stream.
int quarter_turns(const AVStream& stream) {
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 31, 100)
  const AVPacketSideData* side =
      av_packet_side_data_get(stream.codecpar->coded_side_data, stream.codecpar->nb_coded_side_data,
                              AV_PKT_DATA_DISPLAYMATRIX);
  const std::uint8_t* data = side != nullptr && side->size >= 36 ? side->data : nullptr;
#else
  std::size_t size = 0;
  const std::uint8_t* data = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (size < 36) data = nullptr;
#endif
  if (data == nullptr) return 0;
  std::array<std::int32_t, 9> matrix{};
  std::memcpy(matrix.data(), data, sizeof matrix);
  const double degrees = -av_display_rotation_get(matrix.data());
  if (std::isnan(degrees)) return 0;
  const long turns = std::lround(degrees);
  return turns % 90 == 0 ? static_cast<int>((turns / 90 + 4) % 4) : 0;
}

}  // namespace

bool video_supported() { return true; }

struct VideoReader::Impl {
  Impl(Bytes video, const VideoLimits& video_limits)
      : bytes(video), limits(video_limits), started(thread_cpu_seconds()) {
    if (bytes.size() > limits.max_bytes) {
      throw ImageError("video of {} bytes exceeds the limit of {} bytes", bytes.size(),
                       limits.max_bytes);
    }
    quiet_libraries();
    open(container_of(bytes));
    find_stream();
    open_decoder();
    packet.reset(av_packet_alloc());
    decoded.reset(av_frame_alloc());
    if (packet == nullptr || decoded == nullptr) throw Error("no memory for a video");
  }

  void open(const AVInputFormat* container) {
    auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBufferBytes));
    if (buffer != nullptr)
      io.reset(avio_alloc_context(buffer, kIoBufferBytes, 0, this, read, nullptr, seek));
    AVFormatContext* made = avformat_alloc_context();
    if (io == nullptr || made == nullptr) throw Error("no memory for a video");
    made->pb = io.get();
    made->interrupt_callback = {[](void* self) { return static_cast<Impl*>(self)->late() ? 1 : 0; },
                                this};
    AVDictionary* options = nullptr;
    av_dict_set(&options, "codec_whitelist", kCodecs, 0);
    av_dict_set(&options, "protocol_whitelist", "", 0);  // a file may name others
    av_dict_set(&options, "max_streams", kMaxStreams, 0);
    const int code = avformat_open_input(&made, nullptr, container, &options);  // frees on failure
    av_dict_free(&options);
    check(code, "it is damaged");
    format.reset(made);
    probe();
  }

  // Fills in rates and sizes that only the packets tell; may decode some.
  void probe() {
    std::vector<AVDictionary*> options(format->nb_streams);
    for (AVDictionary*& option : options) {
      av_dict_set_int(&option, "max_pixels", limits.max_pixels, 0);
      av_dict_set_int(&option, "threads", 1, 0);
    }
    const int code = avformat_find_stream_info(format.get(), options.data());
    for (AVDictionary*& option : options) av_dict_free(&option);
    check(code, "its streams cannot be read");
  }

  void find_stream() {
    for (unsigned i = 0; i < format->nb_streams; ++i) {
      AVStream* candidate = format->streams[i];
      if (stream == nullptr && candidate->codecpar->codec_type == AVMEDIA_TYPE_VIDEO &&
          (candidate->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0) {
        stream = candidate;
      } else {
        candidate->discard = AVDISCARD_ALL;
      }
    }
    if (stream == nullptr) throw ImageError("file holds no video");
    const AVCodecParameters& codec = *stream->codecpar;
    if (std::ranges::find(kCodecIds, codec.codec_id) == kCodecIds.end()) {
      throw ImageError("codec '{}' is not supported (known: H.264, HEVC, VP8, VP9, AV1, MPEG-4)",
                       avcodec_get_name(codec.codec_id));
    }
    if (codec.width <= 0 || codec.height <= 0)
      throw ImageError("the size of its frames is unknown");
    if (codec.height > limits.max_pixels / codec.width) {
      throw ImageError("frames of {} x {} pixels exceed the limit of {} pixels", codec.width,
                       codec.height, limits.max_pixels);
    }
    coded_size = {codec.width, codec.height};
    turns = quarter_turns(*stream);
    info.size = turns % 2 == 0 ? coded_size : ImageSize{codec.height, codec.width};
    info.fps = frame_rate();
    info.num_frames = frame_count();
    if (info.num_frames > limits.max_frames) {
      throw ImageError("video of {} frames exceeds the limit of {}", info.num_frames,
                       limits.max_frames);
    }
  }

  double frame_rate() {
    double fps = av_q2d_safe(av_guess_frame_rate(format.get(), stream, nullptr));
    if (!(fps > 0)) fps = av_q2d_safe(stream->avg_frame_rate);
    if (!(fps > 0)) fps = 1.0 / av_q2d_safe(stream->time_base);
    return std::isfinite(fps) && fps > 0 ? fps : 0.0;
  }

  // What the container says, else its length in time.
  std::int64_t frame_count() const {
    if (stream->nb_frames > 0) return stream->nb_frames;
    double seconds = static_cast<double>(format->duration) / AV_TIME_BASE;
    if (!(seconds > 0)) {
      seconds = static_cast<double>(stream->duration) * av_q2d_safe(stream->time_base);
    }
    const double count = std::floor(seconds * info.fps + 0.5);
    if (!(count >= 1)) return 1;  // no length is known: the first frame at least
    return count < 1e15 ? static_cast<std::int64_t>(count) : std::int64_t{1} << 50;
  }

  static double av_q2d_safe(AVRational value) { return value.den == 0 ? 0.0 : av_q2d(value); }

  void open_decoder() {
    const AVCodec* codec = avcodec_find_decoder(stream->codecpar->codec_id);
    if (codec == nullptr) {
      throw ImageError("this build has no decoder for '{}'",
                       avcodec_get_name(stream->codecpar->codec_id));
    }
    decoder.reset(avcodec_alloc_context3(codec));
    if (decoder == nullptr) throw Error("no memory for a video");
    check(avcodec_parameters_to_context(decoder.get(), stream->codecpar), "its header is damaged");
    decoder->thread_count = 1;
    // A frame larger than the first is none of the video's: it gets no memory. MPEG-4's decoder,
    // which holds few frames of 8 bits, does not work with less than the limit.
    const std::int64_t pixels = check_decoder_memory();
    decoder->max_pixels = codec->id == AV_CODEC_ID_MPEG4 ? limits.max_pixels : pixels;
    check(avcodec_open2(decoder.get(), codec, nullptr), "its header is damaged");
  }

  // Throws when the frames that the decoder may hold are too large together; else the pixels of
  // one.
  std::int64_t check_decoder_memory() const {
    const AVCodecParameters& codec = *stream->codecpar;
    const auto whole = [](std::int64_t size) {
      return (size + 2 * kEdge + kBlock - 1) / kBlock * kBlock;
    };
    const std::int64_t pixels = whole(codec.width) * whole(codec.height);
    const auto format = static_cast<AVPixelFormat>(codec.format);
    const AVPixFmtDescriptor* known = av_pix_fmt_desc_get(format);
    const std::int64_t bits = known != nullptr ? av_get_padded_bits_per_pixel(known) : kMaxBits;
    const std::int64_t bytes = kMaxHeldFrames * (pixels * bits / 8);
    if (bytes > static_cast<std::int64_t>(limits.max_decoder_bytes)) {
      throw ImageError(
          "decoding frames of {} x {} pixels ({}) may take {} bytes, which exceeds the limit of {} "
          "bytes",
          codec.width, codec.height, known != nullptr ? known->name : "of an unknown kind", bytes,
          limits.max_decoder_bytes);
    }
    return pixels;
  }

  bool next() {
    for (;;) {
      // A packet may give many frames: feeding is not the only place where time passes.
      if (late()) throw_late();
      const int code = avcodec_receive_frame(decoder.get(), decoded.get());
      if (code == 0) return true;
      if (code == AVERROR_EOF || !feed()) return false;
    }
  }

  // One packet into the decoder, at the end the signal to give out what it holds; false when that
  // was done before. Errors are those of a damaged packet: what follows may be whole.
  bool feed() {
    if (drained) return false;
    const int code = av_read_frame(format.get(), packet.get());
    if (code < 0) {
      if (late()) throw_late();
      drained = true;
      avcodec_send_packet(decoder.get(), nullptr);
      return true;
    }
    if (packet->stream_index == stream->index) avcodec_send_packet(decoder.get(), packet.get());
    av_packet_unref(packet.get());
    return true;
  }

  RgbImage frame() {
    if (decoded->width != coded_size.width || decoded->height != coded_size.height) {
      throw ImageError("a frame of the video is {} x {} pixels, the first is {} x {}",
                       decoded->width, decoded->height, coded_size.width, coded_size.height);
    }
    scaler.reset(sws_getCachedContext(scaler.release(), decoded->width, decoded->height,
                                      static_cast<AVPixelFormat>(decoded->format), decoded->width,
                                      decoded->height, AV_PIX_FMT_RGB24, SWS_BICUBIC, nullptr,
                                      nullptr, nullptr));
    if (scaler == nullptr) throw ImageError("the pixels of its frames are of an unknown kind");
    // Rows with room behind them: the converter writes whole vectors.
    constexpr std::int64_t kVector = 64;
    const std::int64_t row = coded_size.width * 3;
    const std::int64_t stride = (row + 2 * kVector - 1) / kVector * kVector;
    rows.resize(static_cast<std::size_t>(stride * coded_size.height + kVector));
    const std::array<std::uint8_t*, 4> planes{rows.data()};
    const std::array<int, 4> strides{static_cast<int>(stride)};
    sws_scale(scaler.get(), decoded->data, decoded->linesize, 0, decoded->height, planes.data(),
              strides.data());
    RgbImage image{coded_size,
                   std::vector<std::uint8_t>(static_cast<std::size_t>(row * coded_size.height))};
    for (std::int64_t y = 0; y < coded_size.height; ++y)
      std::memcpy(image.pixels.data() + y * row, rows.data() + y * stride,
                  static_cast<std::size_t>(row));
    for (int i = 0; i < turns; ++i) image = turned(image);
    return image;
  }

  bool late() const { return thread_cpu_seconds() - started > limits.max_decode_seconds; }
  [[noreturn]] void throw_late() const {
    throw ImageError("decoding takes longer than {} s", limits.max_decode_seconds);
  }

  void check(int code, std::string_view what) const {
    if (code >= 0) return;
    if (late()) throw_late();
    throw ImageError("the video cannot be decoded: {} ({})", what, error_text(code));
  }

  static int read(void* self, std::uint8_t* to, int count) {
    auto& reader = *static_cast<Impl*>(self);
    const std::size_t size =
        std::min(static_cast<std::size_t>(count), reader.bytes.size() - reader.position);
    if (size == 0) return AVERROR_EOF;
    std::memcpy(to, reader.bytes.data() + reader.position, size);
    reader.position += size;
    return static_cast<int>(size);
  }

  static std::int64_t seek(void* self, std::int64_t offset, int whence) {
    auto& reader = *static_cast<Impl*>(self);
    const auto end = static_cast<std::int64_t>(reader.bytes.size());
    if (whence == AVSEEK_SIZE) return end;
    std::int64_t base = 0;
    if (whence == SEEK_CUR) base = static_cast<std::int64_t>(reader.position);
    if (whence == SEEK_END) base = end;
    if (offset < -base || offset > end - base) return AVERROR(EINVAL);
    reader.position = static_cast<std::size_t>(base + offset);
    return base + offset;
  }

  const Bytes bytes;
  const VideoLimits limits;
  const double started;
  std::size_t position = 0;
  std::unique_ptr<AVIOContext, FreeIo> io;  // outlives `format`, which reads through it
  std::unique_ptr<AVFormatContext, FreeThrough<avformat_close_input>> format;
  AVStream* stream = nullptr;
  std::unique_ptr<AVCodecContext, FreeThrough<avcodec_free_context>> decoder;
  std::unique_ptr<AVPacket, FreeThrough<av_packet_free>> packet;
  std::unique_ptr<AVFrame, FreeThrough<av_frame_free>> decoded;
  std::unique_ptr<SwsContext, FreeScaler> scaler;
  std::vector<std::uint8_t> rows;
  VideoInfo info;
  ImageSize coded_size;
  int turns = 0;
  bool drained = false;
};

VideoReader::VideoReader(Bytes bytes, const VideoLimits& limits)
    : impl_(std::make_unique<Impl>(bytes, limits)) {}
VideoReader::~VideoReader() = default;
const VideoInfo& VideoReader::info() const { return impl_->info; }
bool VideoReader::next() { return impl_->next(); }
RgbImage VideoReader::frame() { return impl_->frame(); }

}  // namespace quern::vision

#else  // without FFmpeg's libraries

namespace quern::vision {

struct VideoReader::Impl {};

bool video_supported() { return false; }

VideoReader::VideoReader(std::span<const std::byte> /*bytes*/, const VideoLimits& /*limits*/) {
  throw ImageError("videos are not supported: this program was built without FFmpeg's libraries");
}
VideoReader::~VideoReader() = default;
const VideoInfo& VideoReader::info() const { QUERN_CHECK(false); }
bool VideoReader::next() { QUERN_CHECK(false); }
RgbImage VideoReader::frame() { QUERN_CHECK(false); }

}  // namespace quern::vision

#endif
