// A picture as a stranger sends it: header, limits, pixels, patches. The targets jpeg, png, webp
// and gif are this one with corpora of their own. Must never let a header and its pixels disagree.
// Proved by Fuzz.jpeg, Fuzz.png, Fuzz.webp, Fuzz.gif and by running them under libFuzzer
// (fuzz/README.md).
#include <span>

#include "fuzz/fuzz_target.h"
#include "quern/vision/preprocess.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const auto bytes = std::as_bytes(std::span(data, size));
  vision::ImageLimits limits;
  limits.max_pixels = 1 << 18;
  limits.max_memory = std::size_t{16} << 20;
  static const auto config = vision::make_preprocess_config(PreprocessorConfig{});
  fuzz::accepts([&] {
    const vision::ImageSize size_of_header = vision::probe_image(bytes, limits).size;
    for (const bool white : {false, true}) {
      vision::DecodeOptions options;
      if (white) options.background = {255, 255, 255};
      const vision::RgbImage image = vision::decode_image(bytes, limits, options);
      QUERN_CHECK(image.size.width == size_of_header.width);
      QUERN_CHECK(image.size.height == size_of_header.height);
      QUERN_CHECK(std::ssize(image.pixels) == 3 * image.size.width * image.size.height);
      if (image.size.width * image.size.height > 1 << 14)
        continue;  // resizing is slow and the same
      const vision::PatchGrid grid = vision::image_grid(size_of_header, config);
      const vision::ImagePatches patches = vision::preprocess_image(image, config);
      QUERN_CHECK(patches.num_patches() == grid.patches());
      QUERN_CHECK(patches.num_tokens == grid.tokens(config.merge_size));
    }
  });
  return 0;
}
