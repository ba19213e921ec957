// The chat template of a checkpoint: messages and tools to prompt text, as transformers'
// apply_chat_template and vLLM's content-format detection do it.
// Must never add tokens or text of its own: every byte comes from the template or the request.
// Proved by tests/text/chat_template_test.cc.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "quern/base/json.h"
#include "quern/text/jinja.h"

namespace quern {

// How a template wants `content`: as one string (text parts are joined by the caller), or as
// OpenAI's list of parts ({"type": "text", "text": ...}, {"type": "image"}, ...).
enum class ContentFormat { kString, kOpenAi };

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  // The last message is left open: the text ends where its content ends (transformers). Excludes
  // add_generation_prompt.
  bool continue_final_message = false;
};

// Immutable after loading: render() may be called from several threads at once.
class ChatTemplate {
 public:
  // DIR/chat_template.jinja, else `chat_template` of DIR/tokenizer_config.json (a string, or a list
  // of named templates of which "default" is taken; with tools "tool_use" if there is one). Token
  // variables (bos_token, eos_token, ...) come from tokenizer_config.json and
  // special_tokens_map.json.
  static ChatTemplate load(const std::filesystem::path& dir);
  // `variables` (an object) is visible to the template below everything else.
  static ChatTemplate parse(std::string source, std::string name, Json variables = Json::object());
  // The token variables of a checkpoint.
  static Json token_variables(const std::filesystem::path& dir);
  // Another template with the same variables.
  ChatTemplate with_source(std::string source, std::string name) const {
    return parse(std::move(source), std::move(name), variables_);
  }

  // `messages`: array of objects; `tools`: array or null; `kwargs`: object or null
  // (chat_template_kwargs of the request, which win over the tokens' variables). Arguments of tool
  // calls given as a JSON string are left as they are: the server parses them first.
  std::string render(const Json& messages, const Json& tools, const ChatTemplateOptions& options,
                     const Json& kwargs = nullptr) const;
  std::string render(const Json& messages, const Json& tools, bool add_generation_prompt,
                     const Json& kwargs = nullptr) const {
    return render(messages, tools, ChatTemplateOptions{add_generation_prompt, false}, kwargs);
  }

  // vLLM's `--chat-template-content-format auto`: kOpenAi when the template loops over a message's
  // content, or over a variable `content` (as macros do), kString otherwise.
  ContentFormat content_format() const { return content_format_; }

 private:
  ChatTemplate(Template main, std::string name, Json variables, ContentFormat format);

  Template default_;
  std::unique_ptr<Template> tool_use_;  // a second template for requests with tools, rarely present
  std::string name_;
  Json variables_;
  ContentFormat content_format_;
};

}  // namespace quern
