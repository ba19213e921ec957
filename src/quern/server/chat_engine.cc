// See chat_engine.h.
#include "quern/server/chat_engine.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"

namespace quern::server {
namespace {

constexpr std::size_t kMaxTemplateBytes = 4 << 20;
// Of MiniMax-M3's tokenizer: vLLM models/minimax_m3/common/mm_preprocess.py.
constexpr const char* kImagePlaceholder = "]<]image[>[";
constexpr const char* kVideoPlaceholder = "]<]video[>[";
constexpr const char* kImageStart = "]<]start of image[>[";
constexpr const char* kImageEnd = "]<]end of image[>[";

std::filesystem::path tokenizer_dir(const ChatEngineOptions& options) {
  return options.engine.tokenizer_dir.empty() ? options.engine.model_dir
                                              : options.engine.tokenizer_dir;
}

// vLLM: text with a template's braces or a line break is a template, everything else a path.
ChatTemplate load_template(const ChatEngineOptions& options) {
  const std::string& given = options.chat_template;
  const std::filesystem::path dir = tokenizer_dir(options);
  if (given.empty()) return ChatTemplate::load(dir);
  std::error_code no_path;  // a text may be too long for one
  if (std::filesystem::exists(given, no_path)) {
    return ChatTemplate::parse(read_file(given, kMaxTemplateBytes), given,
                               ChatTemplate::token_variables(dir));
  }
  if (given.find_first_of("{}\n") != std::string::npos) {
    return ChatTemplate::parse(given, "--chat-template", ChatTemplate::token_variables(dir));
  }
  throw Error("--chat-template {}: no such file, and not a template's text", given);
}

GenerationConfig sampling_defaults(const ChatEngineOptions& options, const engine::Engine& engine) {
  GenerationConfig config;
  if (options.generation_config == "auto") {
    config = engine.generation_config();
  } else if (options.generation_config != "vllm") {
    std::filesystem::path path = options.generation_config;
    if (std::filesystem::is_directory(path)) path /= "generation_config.json";
    config = with_context("--generation-config", [&] {
      return parse_generation_config(parse_json(read_file(path, kMaxTemplateBytes), path.string()));
    });
  }
  if (!options.override_generation_config.is_object()) return config;
  const GenerationConfig wins = with_context("--override-generation-config", [&] {
    return parse_generation_config(options.override_generation_config);
  });
  const auto take = [](auto& to, const auto& from) {
    if (from) to = from;
  };
  take(config.temperature, wins.temperature);
  take(config.top_p, wins.top_p);
  take(config.top_k, wins.top_k);
  take(config.min_p, wins.min_p);
  take(config.repetition_penalty, wins.repetition_penalty);
  take(config.max_new_tokens, wins.max_new_tokens);
  return config;
}

void log_defaults(const GenerationConfig& config) {
  std::string text;
  const auto add = [&text](const char* name, const auto& value) {
    if (value) text += fmt::format(" {}={}", name, *value);
  };
  add("temperature", config.temperature);
  add("top_p", config.top_p);
  add("top_k", config.top_k);
  add("min_p", config.min_p);
  add("repetition_penalty", config.repetition_penalty);
  add("max_new_tokens", config.max_new_tokens);
  if (!text.empty()) spdlog::info("sampling defaults:{}", text);
}

// The options that decide the patches of a picture; sizes and constants are the checkpoint's.
std::string image_text(const vision::VisionPreprocessConfig* config) {
  if (config == nullptr) return "none";
  const auto background = config->decode.background.value_or(std::array<std::uint8_t, 3>{});
  return fmt::format("{} {} {} {} {} {}", config->min_pixels, config->max_pixels,
                     config->max_frame_pixels, config->video_fps,
                     config->decode.background.has_value(), fmt::join(background, ","));
}

std::string hash_text(const std::string& text) {
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

// What the service needs to take images; null when the engine has no tower or none are wanted.
std::shared_ptr<const ImageInputs> image_inputs(const ChatEngineOptions& options,
                                                const engine::Engine& engine,
                                                std::shared_ptr<MemoryBudget> budget) {
  if (engine.image_config() == nullptr) return nullptr;
  if (options.max_images == 0 && options.max_videos == 0) return nullptr;
  const Tokenizer& tokenizer = engine.tokenizer();
  const auto token = [&](std::string_view text) {
    const auto id = tokenizer.token_id(text);
    if (!id) throw Error("tokenizer.json has no token '{}', which images need", text);
    return *id;
  };
  ImageInputOptions images;
  images.config = *engine.image_config();
  images.limits.max_bytes = images.video_limits.max_bytes = options.media.max_item_bytes;
  images.placeholder = kImagePlaceholder;
  images.video_placeholder = kVideoPlaceholder;
  images.image_token = token(kImagePlaceholder);
  images.video_token = token(kVideoPlaceholder);
  images.start_token = token(kImageStart);
  images.end_token = token(kImageEnd);
  const auto check = [](const char* key, const auto& named, const char* text, std::int32_t id) {
    if (!named || *named == id) return;
    throw Error("config.json: {} is {}, but '{}' is token {} of tokenizer.json", key, *named, text,
                id);
  };
  check("image_token_index", engine.config().image_token_index, kImagePlaceholder,
        images.image_token);
  check("video_token_index", engine.config().video_token_index, kVideoPlaceholder,
        images.video_token);
  images.tokenize = [&tokenizer](std::string_view text) { return tokenizer.encode(text); };
  images.max_images = options.max_images;
  images.max_videos = options.max_videos;
  images.cache_bytes = std::min(options.mm_processor_cache_bytes, options.max_media_bytes / 2);
  images.max_model_len = engine.max_model_len();
  images.budget = std::move(budget);
  return std::make_shared<const ImageInputs>(std::move(images));
}

// What turns messages into tokens: the texts themselves, as a path stays when its file changes.
std::string text_hash(const ChatEngineOptions& options) {
  constexpr std::size_t kMaxTokenizerBytes = std::size_t{1} << 30;
  const std::filesystem::path dir = tokenizer_dir(options);
  std::string hashes;
  for (const std::filesystem::path& path :
       {dir / "tokenizer.json", dir / "tokenizer_config.json", dir / "special_tokens_map.json",
        dir / "chat_template.jinja", std::filesystem::path(options.chat_template)}) {
    std::error_code no_path;  // a template's text may be too long for one
    const bool is_file = std::filesystem::is_regular_file(path, no_path);
    hashes += (is_file ? hash_text(read_file(path, kMaxTokenizerBytes)) : "-") + " ";
  }
  return hashes;
}

// Everything besides a request that can change an answer. Batch sizes, threads and caches do not.
std::string fingerprint_of(const ChatEngineOptions& options, const engine::Engine& engine,
                           const ChatServiceOptions& chat) {
  const GenerationConfig& defaults = chat.defaults;
  const auto text = [](const auto& value) { return value ? fmt::format("{}", *value) : "-"; };
  return hash_text(fmt::format(
      "{}|moe={}|template={}|kwargs={}|reasoning={}|tools={}|stop_in_reasoning={}|len={}|"
      "{} {} {} {} {} {}|seed={}|images={}|overrides={}|texts={}|format={}",
      engine.checkpoint().content_hash(), static_cast<int>(options.engine.moe_backend),
      options.chat_template, chat.default_chat_template_kwargs.dump(), chat.parse_reasoning,
      chat.parse_tools, chat.stop_in_reasoning, chat.max_model_len, text(defaults.temperature),
      text(defaults.top_p), text(defaults.top_k), text(defaults.min_p),
      text(defaults.repetition_penalty), text(defaults.max_new_tokens), options.engine.seed,
      image_text(engine.image_config()), options.engine.hf_overrides.dump(), text_hash(options),
      chat.content_format ? static_cast<int>(*chat.content_format) : -1));
}

}  // namespace

ChatEngine::ChatEngine(ChatEngineOptions options) {
  // The template first: its errors should not wait for the weights.
  ChatTemplate chat_template = load_template(options);
  options.engine.max_logprobs = options.chat.max_logprobs;
  engine_ = std::make_unique<engine::Engine>(options.engine);
  generator_ = std::make_unique<EngineGenerator>(*engine_);

  ChatServiceOptions& chat = options.chat;
  chat.model_names = options.served_model_names;
  if (chat.model_names.empty()) chat.model_names.push_back(options.engine.model_dir.string());
  chat.max_model_len = engine_->max_model_len();
  chat.vocab_size = engine_->tokenizer().vocab_size();
  chat.max_in_flight = options.engine.max_num_seqs + options.max_queue_len;
  const auto budget = std::make_shared<MemoryBudget>(options.max_media_bytes);
  chat.images = image_inputs(options, *engine_, budget);
  if (chat.images) chat.media = std::make_shared<MediaLoader>(options.media, budget);
  chat.defaults = sampling_defaults(options, *engine_);
  log_defaults(chat.defaults);
  fingerprint_ = fingerprint_of(options, *engine_, chat);
  service_ = std::make_unique<ChatService>(engine_->tokenizer(), std::move(chat_template),
                                           *generator_, std::move(chat));
}

}  // namespace quern::server
