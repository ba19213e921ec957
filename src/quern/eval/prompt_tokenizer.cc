// See prompt_tokenizer.h.
#include "quern/eval/prompt_tokenizer.h"

#include "quern/base/error.h"
#include "quern/base/file.h"

namespace quern {
namespace {

constexpr std::size_t kMaxConfigBytes = 64 << 20;

}  // namespace

PromptTokenizer::PromptTokenizer(const std::filesystem::path& dir)
    : dir_(dir), tokenizer_(Tokenizer::load(dir)) {
  const std::filesystem::path file = dir / "tokenizer_config.json";
  if (std::filesystem::exists(file)) {
    config_ = parse_json(read_file(file, kMaxConfigBytes), file.string());
    if (!config_.is_object()) throw Error("{}: expected an object", file.string());
    for (const char* key : {"bos_token", "eos_token"}) {
      const auto text = special_token(key);
      if (!text || prefix_token_ >= 0) continue;
      if (const auto id = tokenizer_.token_id(*text)) prefix_token_ = *id;
    }
  }
  const bool has_template =
      std::filesystem::exists(dir / "chat_template.jinja") || std::filesystem::exists(file);
  if (!has_template) return;
  try {
    template_ = std::make_unique<ChatTemplate>(ChatTemplate::load(dir));
  } catch (const Error&) {  // told when it is needed
  }
}

std::int32_t PromptTokenizer::prefix_token() const {
  if (prefix_token_ < 0) {
    throw Error("{}: tokenizer_config.json names no bos_token or eos_token that the tokenizer has",
                dir_.string());
  }
  return prefix_token_;
}

std::optional<std::string> PromptTokenizer::special_token(const char* key) const {
  Json value = config_.value(key, Json());
  if (value.is_object()) value = value.value("content", Json());  // an added token as an object
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

std::string PromptTokenizer::template_source() const {
  const std::filesystem::path file = dir_ / "chat_template.jinja";
  if (std::filesystem::exists(file)) return read_file(file, kMaxConfigBytes);
  return special_token("chat_template").value_or("");
}

std::string PromptTokenizer::render(const Json& messages,
                                    const ChatTemplateOptions& options) const {
  if (!template_) throw Error("{}: no chat template that can be read", dir_.string());
  return template_->render(messages, nullptr, options);
}

std::string PromptTokenizer::render(const Json& messages, bool open) const {
  return render(messages, ChatTemplateOptions{!open, open});
}

std::string PromptTokenizer::render_whole(const Json& messages) const {
  return render(messages, ChatTemplateOptions{false, false});
}

}  // namespace quern
