// Pictures that want to hurt: bombs, cut files, wrong magic, random damage. Each gives an
// ImageError or a picture, in bounded memory; run under AddressSanitizer as well.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <random>
#include <vector>

#include "quern/vision/preprocess.h"
#include "tests/support/error_message.h"
#include "tests/vision/golden_pictures.h"

namespace quern::vision {
namespace {

using test::error_message;

std::vector<std::byte> bytes(std::string_view text) {
  std::vector<std::byte> out(text.size());
  std::memcpy(out.data(), text.data(), text.size());
  return out;
}

std::string decode_error(std::span<const std::byte> file, const ImageLimits& limits = {}) {
  return error_message<ImageError>([&] { decode_image(file, limits); });
}

std::span<const std::byte> png(const test::GoldenPictures& golden) {
  return golden.file("png_rgb");
}

void put_be32(std::vector<std::byte>& file, std::size_t offset, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i)
    file[offset + i] = static_cast<std::byte>(value >> (24 - 8 * i) & 0xFF);
}

TEST(HostileImage, WrongMagicIsNamed) {
  EXPECT_EQ(decode_error({}),
            "cannot identify image: the first bytes are none of JPEG, PNG, WebP or GIF (0 bytes)");
  EXPECT_EQ(decode_error(bytes("<svg xmlns='http://www.w3.org/2000/svg'/>")),
            "cannot identify image: the first bytes are none of JPEG, PNG, WebP or GIF (41 bytes)");
  EXPECT_EQ(decode_error(bytes("GIF89a")), "GIF: image file is truncated");
  EXPECT_NE(decode_error(bytes("\xFF\xD8\xFF")), "");
  EXPECT_NE(decode_error(bytes("RIFF0000WEBP")), "");
  EXPECT_EQ(decode_error(bytes("\x89PNG\r\n\x1a\n")), "PNG: no header");
}

TEST(HostileImage, LimitsAreCheckedFromTheHeader) {
  const test::GoldenPictures golden;
  EXPECT_EQ(decode_error(png(golden), {.max_bytes = 100}),
            fmt::format("image of {} bytes exceeds the limit of 100 bytes", png(golden).size()));
  EXPECT_EQ(decode_error(png(golden), {.max_pixels = 5062}),
            "PNG: image of 83 x 61 pixels exceeds the limit of 5062 pixels");
  EXPECT_EQ(decode_error(png(golden), {.max_memory = 15188}),
            "PNG: image of 83 x 61 pixels would take 15189 bytes to decode, the limit is 15188");
  // A progressive picture keeps all coefficients: 2 bytes for each of 3 components.
  EXPECT_EQ(decode_error(golden.file("jpeg_progressive"), {.max_memory = 3 * 5063}),
            "JPEG: image of 83 x 61 pixels would take 45567 bytes to decode, the limit is 15189");
  EXPECT_EQ(decode_error(png(golden), {.max_pixels = 5063, .max_memory = 15189}), "");
}

// 65,500 x 65,500 pixels in a few bytes, of each format.
TEST(HostileImage, BombsAreRefusedBeforeTheyAreUnpacked) {
  const test::GoldenPictures golden;
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  std::vector<std::byte> file(png(golden).begin(), png(golden).end());
  put_be32(file, 16, 65'500);
  put_be32(file, 20, 65'500);
  EXPECT_EQ(decode_error(file),
            "PNG: image of 65500 x 65500 pixels exceeds the limit of 89478485 pixels");
  put_be32(file, 16, 0xFFFFFFFF);
  put_be32(file, 20, 0xFFFFFFFF);
  EXPECT_EQ(decode_error(file),
            "PNG: image of 4294967295 x 4294967295 pixels exceeds the limit of 89478485 pixels");

  const auto gif = golden.file("gif");
  file.assign(gif.begin(), gif.end());
  for (const std::size_t i : {6, 7, 8, 9}) file[i] = std::byte{0xFF};
  EXPECT_EQ(decode_error(file),
            "GIF: image of 65535 x 65535 pixels exceeds the limit of 89478485 pixels");

  const auto jpeg = golden.file("jpeg_420");
  file.assign(jpeg.begin(), jpeg.end());
  for (std::size_t i = 2; i + 9 < file.size(); ++i) {
    if (file[i] == std::byte{0xFF} && file[i + 1] == std::byte{0xC0}) {
      for (const std::size_t j : {5, 7}) {
        file[i + j] = std::byte{0xFF};
        file[i + j + 1] = std::byte{0xDC};
      }
      break;
    }
  }
  EXPECT_EQ(decode_error(file),
            "JPEG: image of 65500 x 65500 pixels exceeds the limit of 89478485 pixels");

  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 * 1024);  // KiB
}

TEST(HostileImage, ANarrowPictureIsRefusedBeforeItIsDecoded) {
  const test::GoldenPictures golden;
  std::vector<std::byte> file(png(golden).begin(), png(golden).end());
  put_be32(file, 16, 80'000);
  put_be32(file, 20, 100);
  EXPECT_EQ(error_message<ImageError>(
                [&] { preprocess_image(file, make_preprocess_config(PreprocessorConfig{}), {}); }),
            "absolute aspect ratio must be smaller than 200, got 800.0");
}

TEST(HostileImage, EveryCutOfEveryKindIsAnError) {
  const test::GoldenPictures golden;
  for (const std::string& name : golden.names()) {
    const auto file = golden.file(name);
    const std::size_t step = std::max<std::size_t>(1, file.size() / 60);
    for (std::size_t size = 0; size < file.size(); size += step) {
      // A copy of exactly that size, so that a read behind its end is seen.
      const std::vector<std::byte> cut(file.begin(),
                                       file.begin() + static_cast<std::ptrdiff_t>(size));
      const std::string error = decode_error(cut);
      // What comes behind the last row of pixels may be absent, so may later frames of a GIF.
      if (size + 16 < file.size() && name != "gif_animated") {
        EXPECT_NE(error, "") << name << " cut at " << size << " of " << file.size();
      }
    }
  }
}

TEST(HostileImage, RandomDamageGivesAnErrorOrAPicture) {
  const test::GoldenPictures golden;
  std::mt19937 random(20261124);
  // A damaged header may ask for anything up to the limit: small, so that the test is quick.
  const ImageLimits limits{.max_pixels = 1'000'000, .max_memory = 32U << 20U};
  std::size_t errors = 0, pictures = 0;
  for (const std::string& name : golden.names()) {
    const auto file = golden.file(name);
    for (int round = 0; round < 40; ++round) {
      std::vector<std::byte> damaged(file.begin(), file.end());
      const int changes = 1 + static_cast<int>(random() % 8);
      for (int i = 0; i < changes; ++i) {
        const std::size_t range =
            round % 2 == 0 ? damaged.size() : std::min<std::size_t>(damaged.size(), 64);
        damaged[random() % range] = static_cast<std::byte>(random() & 0xFF);
      }
      try {
        const RgbImage image = decode_image(damaged, limits);
        EXPECT_LE(image.size.width * image.size.height, limits.max_pixels);
        ++pictures;
      } catch (const ImageError&) {
        ++errors;
      }
    }
  }
  EXPECT_GT(errors, 100U);
  EXPECT_GT(pictures, 100U);
}

// A compressed text of 100 MB in a picture of one pixel: stepped over, never unpacked.
TEST(HostileImage, CompressedTextInAPngIsNotUnpacked) {
  const test::GoldenPictures golden;
  const auto picture = golden.file("png_one_pixel");
  std::vector<std::byte> file(picture.begin(), picture.begin() + 33);
  std::vector<std::byte> text = bytes("Comment");
  text.insert(text.end(), 2, std::byte{0});
  text.resize(text.size() + (std::size_t{1} << 20), std::byte{0x5A});
  std::vector<std::byte> chunk(4);
  put_be32(chunk, 0, static_cast<std::uint32_t>(text.size()));
  const auto kind = bytes("zTXt");
  chunk.insert(chunk.end(), kind.begin(), kind.end());
  chunk.insert(chunk.end(), text.begin(), text.end());
  chunk.insert(chunk.end(), 4, std::byte{0});  // a wrong checksum: nobody looks
  file.insert(file.end(), chunk.begin(), chunk.end());
  file.insert(file.end(), picture.begin() + 33, picture.end());
  EXPECT_EQ(decode_error(file), "");
}

}  // namespace
}  // namespace quern::vision
