// From the bytes of a request's pictures and videos to what the engine takes: patches, content
// hashes, and the prompt's placeholders at full length.
// Must never decode a picture before all are known to fit; no picture is trusted.
// Proved by tests/server/image_inputs_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quern/engine/request.h"
#include "quern/server/media_cache.h"
#include "quern/server/media_parts.h"
#include "quern/server/memory_budget.h"
#include "quern/vision/image.h"
#include "quern/vision/preprocess.h"
#include "quern/vision/video.h"

namespace quern::server {

struct ImageInputOptions {
  vision::VisionPreprocessConfig config;
  vision::ImageLimits limits;
  vision::VideoLimits video_limits;
  std::int32_t image_token = 0;
  std::int32_t video_token = 0;
  std::int32_t start_token = 0;
  std::int32_t end_token = 0;
  std::string placeholder;        // the image token's text
  std::string video_placeholder;  // the video token's
  // Ordinary text to tokens: the time in front of a video's frames.
  std::function<std::vector<std::int32_t>(std::string_view)> tokenize;
  int max_images = 999;  // of one prompt: --limit-mm-per-prompt
  int max_videos = 999;
  int max_model_len = 0;
  std::shared_ptr<MemoryBudget> budget;
  std::size_t cache_bytes = 0;  // --mm-processor-cache-gb: of media that clients name by uuid
};

// Thread-safe.
class ImageInputs {
 public:
  explicit ImageInputs(ImageInputOptions options);

  const ImageInputOptions& options() const { return options_; }

  // Decodes and cuts into patches; takes milliseconds a picture. An item with a uuid is named by it
  // (and by `cache_salt`) instead of its content; one without data is what was sent under its uuid
  // before. Throws ApiError: 400 when something is no picture or video, is not known, or together
  // they are longer than the context, 429 when live requests hold too many.
  std::vector<PreparedMedia> prepare(std::vector<MediaItem> items,
                                     const std::string& cache_salt = "") const;

  // Each placeholder of `prompt` becomes start, num_tokens placeholders, end, for each temporal
  // patch of a video behind its time. Returns where the features go. Throws ApiError (400) when
  // there are not as many placeholders as media.
  std::vector<engine::ImageInput> expand(std::vector<std::int32_t>& prompt,
                                         const std::vector<PreparedMedia>& media) const;

 private:
  struct Draft;
  Draft look_at(const MediaItem& item, const std::string& cache_salt,
                std::int64_t max_tokens) const;
  PreparedMedia make(const MediaItem& item, const Draft& draft) const;
  PreparedMedia make_video(const MediaItem& item, const Draft& draft) const;
  MemoryBudget::Share take_memory(std::int64_t patches) const;

  ImageInputOptions options_;
  const std::unique_ptr<MediaCache> cache_;
};

}  // namespace quern::server
