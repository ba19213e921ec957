// Options about images: JSON, dotted pieces, and what is refused.
#include "media_arguments.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quern/base/error.h"

namespace quern::cli {
namespace {

server::ChatEngineOptions parse_media(const std::vector<std::string>& words) {
  CLI::App app("test");
  prepare(app);
  const MediaArguments arguments(app);
  app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  refuse_unknown(app);
  server::ChatEngineOptions options;
  arguments.apply(options);
  return options;
}

TEST(MediaArguments, JsonAndDottedPieces) {
  EXPECT_EQ(parse_media({}).max_images, 999);
  EXPECT_EQ(parse_media({"--limit-mm-per-prompt", R"({"image": 4})"}).max_images, 4);
  EXPECT_EQ(
      parse_media({"--limit_mm_per_prompt", R"({"image": {"count": 3, "width": 9}, "video": 0})"})
          .max_images,
      3);
  EXPECT_EQ(parse_media({"--limit-mm-per-prompt", R"({"image": {"width": 1024}})"}).max_images,
            999);
  EXPECT_EQ(parse_media({"--limit-mm-per-prompt.image", "0"}).max_images, 0);
  EXPECT_EQ(parse_media({}).max_videos, 999);
  EXPECT_EQ(parse_media({"--limit-mm-per-prompt", R"({"video": 2})"}).max_videos, 2);
  EXPECT_EQ(parse_media({"--limit-mm-per-prompt.video", "1"}).max_videos, 1);
  EXPECT_EQ(parse_media({"--media-io-kwargs", R"({"video": {"fps": 2, "num_frames": -1}})"})
                .engine.images.video_fps,
            2.0);
  EXPECT_EQ(parse_media({"--mm-processor-cache-gb", "0"}).mm_processor_cache_bytes, 0U);
  EXPECT_EQ(
      parse_media({"--mm-processor-kwargs", R"({"max_pixels": 100352})"}).engine.images.max_pixels,
      100352);
  EXPECT_EQ(parse_media({"--mm-processor-kwargs.min_pixels", "3136"}).engine.images.min_pixels,
            3136);
  const auto io =
      parse_media({"--media-io-kwargs",
                   R"({"image": {"rgba_background_color": [1, 2, 3], "image_mode": "RGB"}})"});
  EXPECT_EQ(io.engine.images.rgba_background_color, (std::array<std::uint8_t, 3>{1, 2, 3}));
  const auto many =
      parse_media({"--language-model-only", "--disable-chunked-mm-input",
                   "--allowed-local-media-path", "/media", "--allowed-media-domains", "a.example",
                   "b.example", "--media-fetch-timeout", "2.5", "--max-media-gb", "0.5"});
  EXPECT_TRUE(many.engine.images.language_model_only);
  EXPECT_TRUE(many.engine.images.disable_chunked_mm_input);
  EXPECT_EQ(many.media.allowed_local_media_path, "/media");
  EXPECT_EQ(many.media.allowed_media_domains, (std::vector<std::string>{"a.example", "b.example"}));
  EXPECT_EQ(many.media.fetch_timeout, std::chrono::milliseconds(2500));
  EXPECT_EQ(many.max_media_bytes, 500'000'000U);
}

TEST(MediaArguments, MistakesAreNamed) {
  const struct {
    std::vector<std::string> words;
    const char* text;
  } rows[] = {
      {{"--limit-mm-per-prompt", "image=4"}, "--limit-mm-per-prompt"},
      {{"--limit-mm-per-prompt", R"({"image": -1})"}, "--limit-mm-per-prompt: expected"},
      {{"--limit-mm-per-prompt", R"({"image": {"n": 1}})"}, "--limit-mm-per-prompt: expected"},
      {{"--limit-mm-per-prompt", R"({"picture": 1})"}, "--limit-mm-per-prompt: expected"},
      {{"--mm-processor-kwargs", R"({"fps": 1})"}, "unknown 'fps'"},
      {{"--mm-processor-kwargs", R"({"max_pixels": "x"})"}, "positive integer"},
      {{"--media-io-kwargs", R"({"video": {"num_frames": 40}})"}, "--media-io-kwargs: expected"},
      {{"--media-io-kwargs", R"({"video": {"fps": 0}})"}, "--media-io-kwargs: expected"},
      {{"--media-io-kwargs", R"({"image": {"rgba_background_color": [0, 0, 256]}})"},
       "--media-io-kwargs: expected"},
      {{"--media-io-kwargs", R"({"image": {"image_mode": "L"}})"}, "--media-io-kwargs: expected"},
  };
  for (const auto& row : rows) {
    try {
      parse_media(row.words);
      ADD_FAILURE() << row.words[1];
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(row.text), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quern::cli
