// See media_arguments.h. Names, defaults and forms: vLLM config/multimodal.py.
#include "media_arguments.h"

#include <algorithm>
#include <utility>

#include "quern/base/error.h"

namespace quern::cli {
namespace {

// Of {"count": N, "width": W, "height": H}; the sizes serve vLLM's memory profiling only.
std::optional<int> limit_in(const Json& value) {
  const Json* count = &value;
  if (value.is_object()) {
    for (const auto& [key, ignored] : value.items()) {
      if (key != "count" && key != "width" && key != "height") return std::nullopt;
    }
    const auto found = value.find("count");
    if (found == value.end()) return 999;
    count = &*found;
  }
  if (!count->is_number_integer()) return std::nullopt;
  const auto number = count->get<std::int64_t>();
  if (number < 0 || number > 1'000'000) return std::nullopt;
  return static_cast<int>(number);
}

std::int64_t pixels_in(const Json& value, const char* key) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < 1) {
    throw UsageError("--mm-processor-kwargs: {}: a positive integer is expected, got {}", key,
                     value.dump());
  }
  return value.get<std::int64_t>();
}

}  // namespace

MediaArguments::MediaArguments(CLI::App& app) {
  const auto option = [&app](const char* name, auto& target, const char* help) {
    return app.add_option(both_spellings(name), target, help)->group("Images");
  };
  const auto flag = [&app](const char* name, bool& target, const char* help) {
    return app.add_flag(with_opposite(name), target, help)->group("Images");
  };
  flag("--language-model-only", language_model_only_, "No vision tower is loaded");
  flag("--disable-chunked-mm-input", disable_chunked_, "An image is never split over two chunks");
  option("--limit-mm-per-prompt", limit_,
         R"(JSON: {"image": N, "video": M}, of one prompt (999 each))");
  option("--limit-mm-per-prompt.image", image_limit_, "The same without JSON")
      ->check(CLI::NonNegativeNumber);
  option("--limit-mm-per-prompt.video", video_limit_, "The same without JSON")
      ->check(CLI::NonNegativeNumber);
  option("--mm-processor-kwargs", processor_kwargs_,
         R"(JSON: {"min_pixels": N, "max_pixels": N}, sizes that pictures are resized to)");
  option("--mm-processor-kwargs.min_pixels", min_pixels_, "The same without JSON")
      ->check(CLI::PositiveNumber);
  option("--mm-processor-kwargs.max_pixels", max_pixels_, "The same without JSON")
      ->check(CLI::PositiveNumber);
  option("--media-io-kwargs", media_io_kwargs_,
         R"(JSON: {"image": {"rgba_background_color": [255, 255, 255]}, "video": {"fps": 1}})");
  option("--mm-processor-cache-gb", processor_cache_gb_,
         "Of --max-media-gb, what media that clients name by uuid may keep, at most a half (4)")
      ->check(CLI::NonNegativeNumber);
  option("--allowed-local-media-path", local_path_,
         "Folder under which file: URLs may be read (none)");
  option("--allowed-media-domains", domains_,
         "Hosts that http(s) URLs may name, whatever their address (any with a public address)")
      ->expected(-1);
  option("--media-fetch-timeout", fetch_timeout_, "Seconds for one http(s) URL (5)")
      ->check(CLI::PositiveNumber);
  option("--max-media-gb", max_media_gb_,
         "Memory for the media of all requests in GB (10^9 bytes); more get 429 (4)")
      ->check(CLI::PositiveNumber);
}

void MediaArguments::apply(server::ChatEngineOptions& options) const {
  apply_limits(options);
  options.mm_processor_cache_bytes = static_cast<std::size_t>(processor_cache_gb_ * 1e9);
  options.max_media_bytes = static_cast<std::size_t>(max_media_gb_ * 1e9);
  options.media.allowed_local_media_path = local_path_;
  options.media.allowed_media_domains = domains_;
  options.media.fetch_timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(fetch_timeout_ * 1000));
  engine::ImageOptions& images = options.engine.images;
  images.language_model_only = language_model_only_;
  images.disable_chunked_mm_input = disable_chunked_;
  apply_processor(images);
  apply_media_io(images);
}

void MediaArguments::apply_limits(server::ChatEngineOptions& options) const {
  std::optional<int> images = image_limit_;
  std::optional<int> videos = video_limit_;
  const Json limits = json_option(limit_, "--limit-mm-per-prompt");
  if (limits.is_object()) {
    for (const auto& [kind, value] : limits.items()) {
      const std::optional<int> limit = limit_in(value);
      if (!limit || (kind != "image" && kind != "video" && kind != "audio")) {
        throw UsageError(
            R"(--limit-mm-per-prompt: expected {{"image": N}} or {{"image": {{"count": N}}}}, got {})",
            limit_);
      }
      if (kind == "image") images = limit;
      if (kind == "video") videos = limit;
    }
  }
  options.max_images = images.value_or(999);
  options.max_videos = videos.value_or(999);
}

void MediaArguments::apply_processor(engine::ImageOptions& images) const {
  images.min_pixels = min_pixels_;
  images.max_pixels = max_pixels_;
  const Json kwargs = json_option(processor_kwargs_, "--mm-processor-kwargs");
  if (!kwargs.is_object()) return;
  for (const auto& [key, value] : kwargs.items()) {
    if (key == "min_pixels") {
      images.min_pixels = pixels_in(value, "min_pixels");
    } else if (key == "max_pixels") {
      images.max_pixels = pixels_in(value, "max_pixels");
    } else {
      throw UsageError("--mm-processor-kwargs: unknown '{}' (known: min_pixels, max_pixels)", key);
    }
  }
}

void MediaArguments::apply_media_io(engine::ImageOptions& images) const {
  const Json kwargs = json_option(media_io_kwargs_, "--media-io-kwargs");
  if (!kwargs.is_object()) return;
  const auto fail = [&] {
    throw UsageError(
        R"(--media-io-kwargs: expected {{"image": {{"rgba_background_color": [R, G, B]}}}} or )"
        R"({{"video": {{"fps": N}}}}, got {})",
        media_io_kwargs_);
  };
  for (const auto& [kind, options] : kwargs.items()) {
    if ((kind != "image" && kind != "video") || !options.is_object()) fail();
    for (const auto& [key, value] : options.items()) {
      if (kind == "video") {
        if (key == "num_frames" && value == -1) continue;  // vLLM's "as fps says"
        if (key != "fps" || !value.is_number() || !(value.get<double>() > 0)) fail();
        images.video_fps = value.get<double>();
        continue;
      }
      const bool colour = key == "rgba_background_color" && value.is_array() && value.size() == 3 &&
                          std::all_of(value.begin(), value.end(), [](const Json& part) {
                            return part.is_number_integer() && part.get<std::int64_t>() >= 0 &&
                                   part.get<std::int64_t>() <= 255;
                          });
      if (key == "image_mode" && value == "RGB") continue;
      if (!colour) fail();
      for (std::size_t i = 0; i < 3; ++i) {
        images.rgba_background_color[i] = value[i].get<std::uint8_t>();
      }
    }
  }
}

}  // namespace quern::cli
