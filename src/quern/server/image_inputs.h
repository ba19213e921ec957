// From the bytes of a request's pictures to what the engine takes: patches, content hashes, and the
// prompt's placeholders at full length.
// Must never decode a picture before all are known to fit; no picture is trusted.
// Proved by tests/server/image_inputs_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quern/engine/request.h"
#include "quern/server/media_loader.h"
#include "quern/server/memory_budget.h"
#include "quern/vision/image.h"
#include "quern/vision/preprocess.h"

namespace quern::server {

struct ImageInputOptions {
  vision::VisionPreprocessConfig config;
  vision::ImageLimits limits;
  std::int32_t image_token = 0;
  std::int32_t start_token = 0;
  std::int32_t end_token = 0;
  std::string placeholder;  // the image token's text
  int max_images = 999;     // of one prompt: --limit-mm-per-prompt
  int max_model_len = 0;
  std::shared_ptr<MemoryBudget> budget;
};

// Immutable, thread-safe.
class ImageInputs {
 public:
  explicit ImageInputs(ImageInputOptions options) : options_(std::move(options)) {}

  const ImageInputOptions& options() const { return options_; }

  // Decodes and cuts into patches; takes milliseconds a picture. Offsets are not set yet. Throws
  // ApiError: 400 when something is no picture or together they are longer than the context, 429
  // when live requests hold too many.
  std::vector<engine::ImageInput> prepare(std::vector<Media> media) const;

  // Each placeholder of `prompt` becomes start, num_tokens placeholders, end; sets the offsets.
  // Throws ApiError (400) when there are not as many placeholders as images.
  void expand(std::vector<std::int32_t>& prompt, std::vector<engine::ImageInput>& images) const;

 private:
  engine::ImageInput prepare_one(const Media& media, MemoryBudget::Share share) const;

  ImageInputOptions options_;
};

}  // namespace quern::server
