// The options of `vllm serve` about images and where they may come from.
// Must never leave a JSON key unread: it has a meaning here or is refused.
// Proved by tests/apps/media_arguments_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "options.h"
#include "quern/server/chat_engine.h"

namespace quern::cli {

// Text as given; apply() turns it into the typed options.
class MediaArguments {
 public:
  // Adds the options to `app`. The object outlives the parse.
  explicit MediaArguments(CLI::App& app);

  // Throws UsageError.
  void apply(server::ChatEngineOptions& options) const;

 private:
  void apply_limits(server::ChatEngineOptions& options) const;
  void apply_processor(engine::ImageOptions& images) const;
  void apply_media_io(engine::ImageOptions& images) const;

  bool language_model_only_ = false;
  bool disable_chunked_ = false;
  std::string limit_;
  std::optional<int> image_limit_, video_limit_;
  std::string processor_kwargs_;
  std::optional<std::int64_t> min_pixels_, max_pixels_;
  std::string media_io_kwargs_;
  double processor_cache_gb_ = 4;
  std::string local_path_;
  std::vector<std::string> domains_;
  double fetch_timeout_ = 5;
  double max_media_gb_ = 4;
};

}  // namespace quern::cli
