// Pixels of pictures of every kind against Pillow's and torchvision's (tests/golden/vision). The
// decoders are the same libraries in other versions and the resize is integer arithmetic, so a byte
// may differ by one at most (libjpeg's and libwebp's builds may round a colour differently; nothing
// did where this was written).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "quern/vision/preprocess.h"
#include "tests/vision/golden_pictures.h"

namespace quern::vision {
namespace {

void expect_same(const RgbImage& found, const RgbImage& expected, const std::string& what) {
  ASSERT_EQ(found.size.width, expected.size.width) << what;
  ASSERT_EQ(found.size.height, expected.size.height) << what;
  ASSERT_EQ(found.pixels.size(), expected.pixels.size()) << what;
  int worst = 0;
  for (std::size_t i = 0; i < found.pixels.size(); ++i)
    worst = std::max(worst, std::abs(int{found.pixels[i]} - int{expected.pixels[i]}));
  EXPECT_LE(worst, 1) << what;
}

TEST(Decode, PixelsAreThoseOfPillow) {
  const test::GoldenPictures golden;
  EXPECT_GE(golden.names().size(), 30U);
  for (const std::string& name : golden.names())
    expect_same(decode_image(golden.file(name), {}), golden.image(name + ".decoded"), name);
}

TEST(Decode, AlphaOverABackgroundIsThatOfPillowsPaste) {
  const test::GoldenPictures golden;
  DecodeOptions white;
  white.background = {255, 255, 255};
  int with_alpha = 0;
  for (const std::string& name : golden.names()) {
    const bool differs = golden.has(name + ".white");
    with_alpha += differs ? 1 : 0;
    expect_same(decode_image(golden.file(name), {}, white),
                golden.image(name + (differs ? ".white" : ".decoded")), name);
  }
  EXPECT_GE(with_alpha, 5);
}

TEST(Decode, ProbeTellsFormatAndSizeWithoutPixels) {
  const test::GoldenPictures golden;
  for (const std::string& name : golden.names()) {
    const ImageInfo info = probe_image(golden.file(name), {});
    const RgbImage decoded = golden.image(name + ".decoded");
    EXPECT_EQ(info.size.width, decoded.size.width) << name;
    EXPECT_EQ(info.size.height, decoded.size.height) << name;
    std::string format(format_name(info.format));
    std::transform(format.begin(), format.end(), format.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    EXPECT_TRUE(name.starts_with(format)) << name;
  }
}

TEST(Resize, PixelsAreThoseOfTorchvision) {
  const test::GoldenPictures golden;
  const VisionPreprocessConfig config = make_preprocess_config(PreprocessorConfig{});
  for (const std::string& name : golden.names()) {
    const RgbImage decoded = golden.image(name + ".decoded");
    const RgbImage expected = golden.image(name + ".resized");
    const ImageSize size =
        smart_resize(decoded.size, config.factor(), config.min_pixels, config.max_pixels);
    const RgbImage resized = resize_bicubic(decoded, size);
    expect_same(resized, expected, name);
    EXPECT_EQ(resized.pixels, expected.pixels) << name;  // integer arithmetic: exactly
    const PatchGrid grid = image_grid(decoded.size, config);
    EXPECT_EQ(std::int64_t{grid.h} * 14, expected.size.height) << name;
    EXPECT_EQ(std::int64_t{grid.w} * 14, expected.size.width) << name;
  }
}

}  // namespace
}  // namespace quern::vision
