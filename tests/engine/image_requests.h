// Requests with pictures of data/shapes for models/m3-tiny, as the server would make them.
// Must never depend on the server: the engine's tests stand below it.
// Proved by use in image_invariance_test.cc and slow/image_chunks_test.cc.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/engine/request.h"
#include "quern/text/tokenizer.h"
#include "quern/vision/preprocess.h"
#include "tests/support/synthetic_checkpoint.h"

namespace quern::engine::test {

// Pictures at the model's own size rule, or enlarged to at least `min_pixels`.
class ImageRequests {
 public:
  explicit ImageRequests(std::int64_t min_pixels = 3136)
      : tokenizer_(Tokenizer::load(QUERN_SOURCE_DIR "/models/m3-tiny")) {
    PreprocessorConfig file =
        read_preprocessor_config(std::filesystem::path(QUERN_SOURCE_DIR "/models/m3-tiny"));
    file.min_pixels = min_pixels;
    config_ = vision::make_preprocess_config(file);
  }

  // The name of the file stands for its hash.
  void append_image(const std::string& name, GenerationRequest& request) {
    auto& patches = pictures_[name];
    if (patches == nullptr) {
      const std::string bytes =
          read_file(std::string(QUERN_SOURCE_DIR "/data/shapes/") + name, 1 << 20);
      patches = std::make_shared<vision::ImagePatches>(vision::preprocess_image(
          std::as_bytes(std::span(bytes)), config_, vision::ImageLimits{}));
    }
    ImageInput image;
    std::ranges::copy(std::as_bytes(std::span(name)).first(std::min<std::size_t>(name.size(), 32)),
                      image.hash.begin());
    image.patches = patches;
    request.prompt.push_back(token("]<]start of image[>["));
    image.offset = static_cast<int>(request.prompt.size());
    image.num_tokens = patches->num_tokens;
    request.prompt.insert(request.prompt.end(), static_cast<std::size_t>(patches->num_tokens),
                          token("]<]image[>["));
    request.prompt.push_back(token("]<]end of image[>["));
    request.images.push_back(std::move(image));
  }
  // Random tokens.
  static void append_text(std::int64_t count, std::uint64_t seed, GenerationRequest& request) {
    const auto text = quern::test::synthetic_prompt(count, 2000, seed);
    request.prompt.insert(request.prompt.end(), text.begin(), text.end());
  }
  void append_text(const std::string& text, GenerationRequest& request) {
    const auto tokens = tokenizer_.encode(text);
    request.prompt.insert(request.prompt.end(), tokens.begin(), tokens.end());
  }
  // Text and none to three pictures, other ones for each i.
  void append_mixture(int i, GenerationRequest& request) {
    constexpr const char* kPictures[] = {"red_circle_56.png", "green_triangle_84.png",
                                         "blue_square_112.png", "yellow_circle_84.png"};
    append_text(1 + i * 11 % 60, static_cast<std::uint64_t>(i % 3), request);
    for (int k = 0; k < i % 4; ++k) {
      append_image(kPictures[(i + k) % 4], request);
      append_text(5 + i, static_cast<std::uint64_t>(i), request);
    }
  }

 private:
  std::int32_t token(const std::string& text) const {
    const auto id = tokenizer_.token_id(text);
    QUERN_CHECK(id.has_value(), "{}", text);
    return *id;
  }

  Tokenizer tokenizer_;
  vision::VisionPreprocessConfig config_;
  std::map<std::string, std::shared_ptr<const vision::ImagePatches>> pictures_;
};

// Greedy, with the log-probabilities of the whole vocabulary: all logits are compared.
inline GenerationRequest all_logits_request(const std::string& id, int max_tokens) {
  GenerationRequest request;
  request.id = id;
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  request.sampling.logprobs = -1;
  return request;
}

// Two pictures of 64 placeholders each, both over the border of a block, in a prompt of 332 tokens.
inline GenerationRequest two_image_request(ImageRequests& make) {
  GenerationRequest request = all_logits_request("two", 3);
  ImageRequests::append_text(90, 1, request);
  make.append_image("red_circle_112.png", request);
  ImageRequests::append_text(50, 2, request);
  make.append_image("blue_square_84.png", request);
  ImageRequests::append_text(60, 3, request);
  return request;
}

}  // namespace quern::engine::test
