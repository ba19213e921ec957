// Tokenizer and chat template of a checkpoint's directory, for prompts that are not left to a
// server.
// Must never be needed for generation over /v1/chat/completions.
// Proved by tests/apps/harness_runs_test.cc (tokens and texts that the harness sent).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "quern/base/json.h"
#include "quern/text/chat_template.h"
#include "quern/text/tokenizer.h"

namespace quern {

// Immutable after loading.
class PromptTokenizer {
 public:
  // DIR/tokenizer.json; bos_token, else eos_token of DIR/tokenizer_config.json is the prefix of
  // what has no prompt.
  explicit PromptTokenizer(const std::filesystem::path& dir);
  // That token in place of what the directory names.
  void set_prefix_token(std::int32_t token) { prefix_token_ = token; }

  const Tokenizer& tokenizer() const { return tokenizer_; }
  // Throws Error when the directory names neither token.
  std::int32_t prefix_token() const;
  // "bos_token", "eos_token", ... of tokenizer_config.json; empty when it names none.
  std::optional<std::string> special_token(const char* key) const;
  // The template's source; empty when there is none that can be read.
  std::string template_source() const;
  // Messages as text by the directory's chat template, up to where the model is to write; `open`:
  // the last message goes on.
  std::string render(const Json& messages, bool open) const;
  // Messages as text, the last one as complete as the others.
  std::string render_whole(const Json& messages) const;

 private:
  std::string render(const Json& messages, const ChatTemplateOptions& options) const;

  std::filesystem::path dir_;
  Tokenizer tokenizer_;
  Json config_ = Json::object();
  std::int32_t prefix_token_ = -1;
  std::unique_ptr<const ChatTemplate> template_;  // null: none that can be read
};

}  // namespace quern
