// The vision tower on m3-tiny: against the image case published with it (float32), against
// transformers in float32 on pictures of 12 sizes, the CPU against the oracle, and independence of
// other images, threads and chunks.
//
// Tolerances. Float32 implementations: those stated with the published outputs, 1e-5 for features
// (scale 1 to 3; sums of up to 768 terms, 2^-24 each: 1e-6 a layer), 1e-4 for logits (scale 15 to
// 25), 2e-4 for hidden states. transformers sums attention over up to 2,304 patches in float32, so
// its features get 4e-5. BF16 on the CPU against BF16 in the oracle: rounding at the same points;
// a flipped rounding is one unit, 2^-8 of a value, and a handful of them in a row of 14 roundings
// add up like their root: 4 * 2^-8 of the features' largest value.
#include "quern/model/vision_tower.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "quern/checkpoint/validate.h"
#include "quern/vision/preprocess.h"
#include "tests/model/model_runner.h"
#include "tests/support/error_message.h"
#include "tests/support/tiny_model.h"

namespace quern::test {
namespace {

using kernels::MoeBackend;
using kernels::Rounding;
using vision::ImagePatches;

constexpr std::int32_t kPlaceholder = 2009;

Golden vision_golden(const std::string& name) {
  return Golden(QUERN_SOURCE_DIR "/tests/golden/vision/" + name + ".safetensors");
}

vision::VisionPreprocessConfig preprocess_config() {
  return vision::make_preprocess_config(read_preprocessor_config(kTinyModel));
}

// tools/vision_golden.py makes the same.
vision::RgbImage test_picture(std::int64_t height, std::int64_t width) {
  vision::RgbImage image{{width, height}, {}};
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      for (std::int64_t c = 0; c < 3; ++c)
        image.pixels.push_back(
            static_cast<std::uint8_t>((x * 7 + y * 13 + c * 50 + x * y % 31 * 4) % 256));
    }
  }
  return image;
}

// A checkpoint's tower on a back end of its own.
class Tower {
 public:
  explicit Tower(std::unique_ptr<kernels::Backend> backend, model::VisionLimits limits = {})
      : checkpoint_(Checkpoint::open(kTinyModel)),
        config_(parse_model_config(checkpoint_.config())),
        backend_(std::move(backend)),
        tower_(checkpoint_, config_, *backend_, limits) {}

  std::vector<float> encode(const std::vector<const ImagePatches*>& images) {
    std::size_t tokens = 0;
    for (const ImagePatches* image : images) tokens += static_cast<std::size_t>(image->num_tokens);
    std::vector<float> features(tokens * static_cast<std::size_t>(tower_.hidden_size()));
    tower_.encode(images, features);
    return features;
  }

 private:
  Checkpoint checkpoint_;
  ModelConfig config_;
  std::unique_ptr<kernels::Backend> backend_;
  model::VisionTower tower_;
};

std::unique_ptr<kernels::Backend> float32() {
  return kernels::make_reference_backend(Rounding::kNone);
}
std::unique_ptr<kernels::Backend> cpu(int threads) {
  return kernels::make_cpu_backend({threads, MoeBackend::kNative});
}

float max_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float worst = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

float largest(std::span<const float> values) {
  float most = 0;
  for (const float value : values) most = std::max(most, std::abs(value));
  return most;
}

ImagePatches published_image(const Golden& published) {
  const auto file = published.bytes("image.file");
  return vision::preprocess_image(std::as_bytes(file), preprocess_config(), {});
}

std::size_t first_placeholder(const std::vector<std::int32_t>& ids) {
  return static_cast<std::size_t>(std::find(ids.begin(), ids.end(), kPlaceholder) - ids.begin());
}

TEST(VisionTowerTiny, PublishedPixels) {
  const Golden published = vision_golden("published");
  const ImagePatches image = published_image(published);
  EXPECT_EQ(image.grid_h, 8);
  EXPECT_EQ(image.grid_w, 8);
  EXPECT_EQ(image.num_tokens, 16);
  // Three float32 operations on values of at most 2.2.
  EXPECT_LE(max_difference(image.pixels, published.f32("image.pixel_values")), 1e-6F);
}

TEST(VisionTowerTiny, PublishedFeaturesAndLogits) {
  const Golden published = vision_golden("published");
  const ImagePatches image = published_image(published);
  const std::vector<float> features = Tower(float32()).encode({&image});
  EXPECT_LE(max_difference(features, published.f32("image.features")), 1e-5F);

  ModelRunner runner(kTinyModel, float32());
  const auto ids = published.ints("image.input_ids");
  const FeaturesAt at{features, first_placeholder(ids)};
  Seen seen;
  const auto last = runner.run(ids, 0, 1 << 20, &seen, true, at);
  const auto logits = published.f32("image.logits_last8");
  EXPECT_LE(max_difference(std::span(seen.all_logits).last(logits.size()), logits), 1e-4F);
  const auto hidden = published.f32("image.hidden_last");
  for (std::size_t l = 0; l < seen.hidden.size(); ++l) {
    const std::size_t width = seen.hidden[l].size();
    EXPECT_LE(max_difference(seen.hidden[l], hidden.subspan(l * width, width)), 2e-4F);
  }
  EXPECT_EQ(runner.greedy(last, static_cast<std::int32_t>(ids.size()), 24),
            published.ints("image.greedy"));
}

TEST(VisionTowerTiny, Bf16OnTheCpuAnswersAsPublished) {
  const Golden published = vision_golden("published");
  const ImagePatches image = published_image(published);
  const std::vector<float> features = Tower(cpu(2)).encode({&image});
  ModelRunner runner(kTinyModel, cpu(2));
  const auto ids = published.ints("image.input_ids");
  const auto last = runner.run(ids, 0, 1 << 20, nullptr, false, {features, first_placeholder(ids)});
  EXPECT_EQ(runner.greedy(last, static_cast<std::int32_t>(ids.size()), 24),
            published.ints("image.greedy"));
}

struct Size {
  std::int64_t height, width;
};
constexpr Size kSizes[] = {{20, 20},  {70, 70},  {42, 98},   {14, 1000}, {112, 112}, {56, 224},
                           {300, 56}, {33, 150}, {140, 200}, {224, 224}, {480, 640}, {672, 672}};

TEST(VisionTowerTiny, FeaturesAndLogitsAreThoseOfTransformers) {
  const Golden want = vision_golden("tiny.transformers_f32");
  const std::vector<std::int32_t> published = vision_golden("published").ints("image.input_ids");
  const std::size_t first = first_placeholder(published);
  const auto count =
      static_cast<std::size_t>(std::count(published.begin(), published.end(), kPlaceholder));
  Tower tower(float32());
  ModelRunner runner(kTinyModel, float32());
  for (const Size& size : kSizes) {
    const std::string key = fmt::format("{}x{}", size.height, size.width);
    SCOPED_TRACE(key);
    const ImagePatches image =
        vision::preprocess_image(test_picture(size.height, size.width), preprocess_config());
    const std::vector<std::int32_t> grid{image.grid_t, image.grid_h, image.grid_w};
    ASSERT_EQ(grid, want.ints(key + ".grid"));
    const std::vector<float> features = tower.encode({&image});
    std::vector<float> kept;
    for (const std::int32_t row : want.ints(key + ".rows"))
      kept.insert(kept.end(), features.begin() + row * 192, features.begin() + (row + 1) * 192);
    EXPECT_LE(max_difference(kept, want.f32(key + ".features")), 4e-5F);
    // The large pictures' prompts take the naive text model a minute.
    if (image.num_tokens > 100) continue;
    std::vector<std::int32_t> ids = published;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(first),
              ids.begin() + static_cast<std::ptrdiff_t>(first + count));
    ids.insert(ids.begin() + static_cast<std::ptrdiff_t>(first),
               static_cast<std::size_t>(image.num_tokens), kPlaceholder);
    EXPECT_LE(max_difference(runner.run(ids, 0, 1 << 20, nullptr, false, {features, first}),
                             want.f32(key + ".logits")),
              2e-4F);
  }
}

// Six temporal patches in segments of four and two, between the tokens of their times; frames are
// OpenCV's (tools/video_golden.py), so this needs no video decoder.
TEST(VisionTowerTiny, VideoFeaturesAndLogitsAreThoseOfTransformers) {
  const Golden want(QUERN_SOURCE_DIR "/tests/golden/video/clips.safetensors");
  const auto bytes = want.bytes("h264_long.frames");
  constexpr std::size_t kFrame = std::size_t{48} * 62 * 3;
  std::vector<vision::RgbImage> frames;
  for (std::size_t i = 0; i < bytes.size(); i += kFrame) {
    const auto frame = bytes.subspan(i, kFrame);
    frames.push_back({{62, 48}, {frame.begin(), frame.end()}});
  }
  ASSERT_EQ(frames.size(), 11U);
  // All frames in one call: the tower cuts them into segments by itself, as the engine's callers
  // do.
  const ImagePatches video = vision::preprocess_frames(frames, preprocess_config());
  const std::vector<float> features = Tower(float32()).encode({&video});
  EXPECT_LE(max_difference(features, want.f32("h264_long.features")), 1e-5F);
  const ImagePatches head =
      vision::preprocess_frames(std::span(frames).first(8), preprocess_config());
  const ImagePatches tail =
      vision::preprocess_frames(std::span(frames).subspan(8), preprocess_config());
  EXPECT_EQ(Tower(float32()).encode({&head, &tail}), features);

  ModelRunner runner(kTinyModel, float32());
  const auto ids = want.ints("h264_long.tokens");
  constexpr std::int32_t kVideoPlaceholder = 2010;
  const std::size_t run = static_cast<std::size_t>(video.num_tokens / video.grid_t) * 192;
  std::vector<float> logits;
  std::size_t begin = 0, next = 0;
  while (begin < ids.size()) {  // pieces with one run of placeholders each
    const auto first = static_cast<std::size_t>(
        std::find(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end(), kVideoPlaceholder) -
        ids.begin());
    std::size_t end = first;
    while (end < ids.size() && ids[end] == kVideoPlaceholder) ++end;
    FeaturesAt at;
    if (first < ids.size()) at = {std::span(features).subspan(next, run), first - begin};
    next += first < ids.size() ? run : 0;
    logits = runner.run(std::span(ids).subspan(begin, end - begin),
                        static_cast<std::int32_t>(begin), 1 << 20, nullptr, false, at);
    begin = end;
  }
  EXPECT_EQ(next, features.size());
  EXPECT_LE(max_difference(logits, want.f32("h264_long.logits")), 2e-4F);
}

TEST(VisionTowerTiny, CpuIsTheOracleRoundedAtTheSamePoints) {
  Tower oracle(kernels::make_reference_backend(Rounding::kBF16));
  Tower fast(cpu(2));
  for (const Size& size : {Size{70, 70}, Size{33, 150}, Size{224, 224}}) {
    const ImagePatches image =
        vision::preprocess_image(test_picture(size.height, size.width), preprocess_config());
    const std::vector<float> exact = oracle.encode({&image});
    EXPECT_LE(max_difference(fast.encode({&image}), exact), 4 * 0x1p-8F * largest(exact));
  }
}

TEST(VisionTowerTiny, SeveralImagesInOneCallEqualSeparateCalls) {
  std::vector<ImagePatches> images;
  for (const Size& size : {Size{70, 70}, Size{42, 98}, Size{300, 56}, Size{14, 1000}, Size{20, 20}})
    images.push_back(
        vision::preprocess_image(test_picture(size.height, size.width), preprocess_config()));
  std::vector<const ImagePatches*> all;
  for (const ImagePatches& image : images) all.push_back(&image);
  std::vector<float> separate;
  Tower one(cpu(1));
  for (const ImagePatches* image : all) {
    const auto features = one.encode({image});
    separate.insert(separate.end(), features.begin(), features.end());
  }
  EXPECT_EQ(one.encode(all), separate);
  EXPECT_EQ(Tower(cpu(3)).encode(all), separate);
  // Passes cut between any two.
  EXPECT_EQ(Tower(cpu(2), {.max_patches = 200}).encode(all), separate);
}

TEST(VisionTowerTiny, AVideoIsCutIntoSegmentsOfFourStepsWithTheirOwnTime) {
  // 10 frames: steps 0 to 3 and step 4, which must be what a video of its frames alone gives.
  std::vector<vision::RgbImage> frames;
  for (int f = 0; f < 10; ++f) {
    frames.push_back(test_picture(56, 84));
    for (std::uint8_t& value : frames.back().pixels)
      value = static_cast<std::uint8_t>(value + 9 * f);
  }
  const auto config = preprocess_config();
  const ImagePatches video = vision::preprocess_frames(frames, config);
  ASSERT_EQ(video.grid_t, 5);
  const ImagePatches head = vision::preprocess_frames(std::span(frames).first(8), config);
  const ImagePatches tail = vision::preprocess_frames(std::span(frames).last(2), config);
  Tower tower(cpu(2));
  EXPECT_EQ(tower.encode({&video}), tower.encode({&head, &tail}));
  // Time matters inside a segment.
  const ImagePatches first = vision::preprocess_frames(std::span(frames).first(2), config);
  const std::vector<float> whole = tower.encode({&head}), alone = tower.encode({&first});
  EXPECT_GT(max_difference(std::span(whole).first(alone.size()), alone), 1e-2F);
}

TEST(VisionTowerTiny, AnyCutOfAPromptWithAnImageGivesTheSameLogits) {
  const Golden published = vision_golden("published");
  const ImagePatches image = published_image(published);
  const std::vector<float> features = Tower(cpu(2)).encode({&image});
  const auto ids = published.ints("image.input_ids");
  const FeaturesAt at{features, first_placeholder(ids)};
  ModelRunner runner(kTinyModel, cpu(2));
  const auto whole = runner.run(ids, 0, 1 << 20, nullptr, false, at);
  for (std::size_t chunk = 1; chunk < ids.size(); chunk += chunk < 20 ? 1 : 9)
    EXPECT_EQ(runner.run(ids, 0, chunk, nullptr, false, at), whole) << chunk;
  EXPECT_NE(runner.run(ids), whole);  // the placeholders' own embeddings say something else
}

TEST(VisionTowerTiny, RefusesWhatDoesNotFit) {
  Tower tower(cpu(1), {.max_patches = 64});
  ImagePatches image = vision::preprocess_image(test_picture(112, 112), preprocess_config());
  EXPECT_NO_THROW(tower.encode({&image}));
  const ImagePatches large = vision::preprocess_image(test_picture(112, 140), preprocess_config());
  EXPECT_EQ(error_message([&] { tower.encode({&large}); }),
            "image of 80 patches in a segment exceeds the limit of 64");
  image.pixels.pop_back();
  EXPECT_EQ(error_message([&] { tower.encode({&image}); }),
            "image of 64 patches has 75263 values and 16 tokens: the tower reads 1176 a patch, 4 "
            "patches a token");
}

TEST(VisionTowerTiny, LanguageModelOnlyChecksNothingOfTheTower) {
  const Checkpoint checkpoint = Checkpoint::open(kTinyModel);
  ModelConfig config = parse_model_config(checkpoint.config());
  EXPECT_TRUE(model::VisionTower::present(checkpoint, config));
  config.vision_config->hidden_size = 128;  // not what the tensors are
  EXPECT_NE(error_message([&] { validate_tensors(config, checkpoint); }), "");
  config.vision_config.reset();
  EXPECT_NO_THROW(validate_tensors(config, checkpoint));
  EXPECT_FALSE(model::VisionTower::present(checkpoint, config));
  const auto backend = cpu(1);
  EXPECT_NO_THROW(model::TextModel(checkpoint, config, *backend, {16, 1}));
  EXPECT_EQ(error_message([&] { model::VisionTower(checkpoint, config, *backend, {}); }),
            "config.json: vision_config is missing");
}

TEST(VisionTowerTiny, RefusesAConfigurationThatItDoesNotCompute) {
  const Checkpoint checkpoint = Checkpoint::open(kTinyModel);
  const auto backend = cpu(1);
  ModelConfig config = parse_model_config(checkpoint.config());
  config.vision_config->rope_mode = "2d";
  EXPECT_EQ(error_message([&] { model::VisionTower(checkpoint, config, *backend, {}); }),
            "config.json: vision_config.rope_mode: 2d is not supported");
}

}  // namespace
}  // namespace quern::test
