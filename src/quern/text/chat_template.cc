// See chat_template.h.
#include "quern/text/chat_template.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/text/jinja/ast.h"
#include "quern/text/jinja/tree_access.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTemplateBytes = 1u << 20;
constexpr std::size_t kMaxConfigBytes = 64u << 20;
// Of the environment that transformers renders chat templates in.
constexpr TemplateSyntax kChatSyntax = {.trim_blocks = true, .lstrip_blocks = true};
constexpr std::string_view kTokenVariables[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                "pad_token", "cls_token", "mask_token"};

Json read_config(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  Json config = parse_json(read_file(path, kMaxConfigBytes), path.string());
  if (!config.is_object()) throw Error("{}: expected an object", path.string());
  return config;
}

// A token is written as a string or as {"content": ..., ...}.
void add_token_variables(const Json& config, Json& variables) {
  for (const std::string_view key : kTokenVariables) {
    const auto it = config.find(std::string(key));
    if (it == config.end()) continue;
    if (it->is_string())
      variables[std::string(key)] = *it;
    else if (it->is_object() && it->contains("content"))
      variables[std::string(key)] = (*it)["content"];
  }
}

// --- vLLM's detection (entrypoints/chat_utils.py): does the template loop over a message's
// content? ---

bool is_variable(const jinja::Expr* expr, std::string_view name) {
  const auto* variable = dynamic_cast<const jinja::Name*>(expr);
  return variable != nullptr && variable->name == name;
}

// The object and the constant string key of `object.key` or `object['key']`.
std::pair<const jinja::Expr*, std::string> member_of(const jinja::Expr* expr) {
  if (const auto* attribute = dynamic_cast<const jinja::GetAttr*>(expr)) {
    return {attribute->object.get(), attribute->name};
  }
  if (const auto* item = dynamic_cast<const jinja::GetItem*>(expr)) {
    const auto* key = dynamic_cast<const jinja::Literal*>(item->key.get());
    if (key != nullptr && key->value.text() != nullptr)
      return {item->object.get(), key->value.bytes()};
  }
  return {nullptr, {}};
}

// `name`, `name[...]`, `name[a:b]`, filtered or tested; with `key`: a member `key` of such.
bool reads(const jinja::Expr* expr, std::string_view name, std::string_view key = {}) {
  if (const auto* filter = dynamic_cast<const jinja::FilterExpr*>(expr)) {
    return filter->input && reads(filter->input.get(), name, key);
  }
  if (const auto* test = dynamic_cast<const jinja::TestExpr*>(expr)) {
    return reads(test->input.get(), name, key);
  }
  if (const auto* slice = dynamic_cast<const jinja::SliceExpr*>(expr)) {
    return reads(slice->object.get(), name, key);
  }
  if (!key.empty()) {
    const auto [object, member] = member_of(expr);
    return object != nullptr && member == key && is_variable(object, name);
  }
  return is_variable(expr, name);
}

// `root` and every variable that `set` makes from it (or from its member `key`).
std::vector<std::string> aliases(const jinja::Tree& tree, const std::string& root,
                                 std::string_view key = {}) {
  std::vector<std::string> names;
  if (key.empty()) names.push_back(root);
  for (const jinja::SetStmt* statement : tree.assignments) {
    if (!statement->target.is_tuple && statement->target.attribute.empty() &&
        reads(statement->value.get(), root, key)) {
      names.push_back(statement->target.name);
    }
  }
  return names;
}

bool loops_over_content(const jinja::Tree& tree, const std::string& message) {
  const std::vector<std::string> contents = aliases(tree, message, "content");
  return std::any_of(tree.loops.begin(), tree.loops.end(), [&](const jinja::ForStmt* loop) {
    return reads(loop->iterable.get(), message, "content") ||
           std::any_of(contents.begin(), contents.end(),
                       [&](const std::string& name) { return reads(loop->iterable.get(), name); });
  });
}

// A macro gets a message's content under a name of its own; vLLM (its PR 42660) takes the usual
// one.
bool loops_over_variable_content(const jinja::Tree& tree) {
  return std::any_of(tree.loops.begin(), tree.loops.end(), [](const jinja::ForStmt* loop) {
    return !loop->target.is_tuple && is_variable(loop->iterable.get(), "content");
  });
}

ContentFormat detect_content_format(const jinja::Tree& tree) {
  if (loops_over_variable_content(tree)) return ContentFormat::kOpenAi;
  const std::vector<std::string> lists = aliases(tree, "messages");
  for (const jinja::ForStmt* loop : tree.loops) {
    const bool over_messages =
        std::any_of(lists.begin(), lists.end(),
                    [&](const std::string& name) { return reads(loop->iterable.get(), name); });
    if (over_messages && !loop->target.is_tuple && loops_over_content(tree, loop->target.name)) {
      return ContentFormat::kOpenAi;
    }
  }
  return ContentFormat::kString;
}

// --- continue_final_message (transformers' utils/chat_template_utils.py) ---

std::string strip_right(std::string text) {
  text.erase(text.find_last_not_of(" \t\n\r\f\v") + 1);
  return text;
}
std::string strip_both(std::string text) {
  text = strip_right(std::move(text));
  text.erase(0, text.find_first_not_of(" \t\n\r\f\v"));
  return text;
}

std::string final_text(const Json& messages) {
  const Json content = messages.empty() ? Json() : messages.back().value("content", Json());
  if (content.is_string()) return content.get<std::string>();
  if (content.is_array()) {
    for (auto part = content.rbegin(); part != content.rend(); ++part) {
      if (part->is_object() && part->value("text", Json()).is_string())
        return (*part)["text"].get<std::string>();
    }
  }
  throw Error("continue_final_message: the last message has no text content");
}

std::string cut_behind_final_message(std::string rendered, const Json& messages) {
  const std::string final = final_text(messages);
  const std::string stripped = strip_both(final);
  const std::size_t at = rendered.rfind(stripped);
  if (at == std::string::npos) {
    throw Error("continue_final_message: the final message does not appear in the rendered chat");
  }
  if (rendered.compare(at, final.size(), final) == 0) return rendered.substr(0, at + final.size());
  // The template trimmed the message: what follows it is cut, without white space in front of it.
  return strip_right(rendered.substr(0, at + stripped.size()));
}

}  // namespace

ChatTemplate::ChatTemplate(Template main, std::string name, Json variables, ContentFormat format)
    : default_(std::move(main)),
      name_(std::move(name)),
      variables_(std::move(variables)),
      content_format_(format) {}

ChatTemplate ChatTemplate::parse(std::string source, std::string name, Json variables) {
  if (source.size() > kMaxTemplateBytes) {
    throw Error("{}: a template of at most {} bytes is expected, found {}", name, kMaxTemplateBytes,
                source.size());
  }
  Template parsed = Template::parse(std::move(source), name, kChatSyntax);
  const ContentFormat format = detect_content_format(jinja::tree_of(parsed));
  return ChatTemplate(std::move(parsed), std::move(name), std::move(variables), format);
}

Json ChatTemplate::token_variables(const std::filesystem::path& dir) {
  Json variables = Json::object();
  add_token_variables(read_config(dir / "tokenizer_config.json"), variables);
  add_token_variables(read_config(dir / "special_tokens_map.json"), variables);
  return variables;
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& dir) {
  const Json config = read_config(dir / "tokenizer_config.json");
  Json variables = token_variables(dir);
  const auto path = dir / "chat_template.jinja";
  if (std::filesystem::exists(path)) {
    return parse(read_file(path, kMaxTemplateBytes), path.string(), std::move(variables));
  }
  const std::string source = (dir / "tokenizer_config.json").string();
  const Json found = config.value("chat_template", Json());
  if (found.is_string()) return parse(found.get<std::string>(), source, std::move(variables));
  if (!found.is_array())
    throw Error("{}: no chat_template.jinja, and no chat_template in {}", dir.string(), source);
  const auto named = [&](std::string_view name) -> const Json* {
    for (const Json& entry : found) {
      const bool complete = entry.is_object() && entry.value("template", Json()).is_string();
      if (!complete)
        throw Error("{}: chat_template: expected objects with 'name' and 'template'", source);
      if (entry.value("name", Json()) == name) return &entry["template"];
    }
    return nullptr;
  };
  const Json* main = named("default");
  if (main == nullptr) throw Error("{}: chat_template: no template named 'default'", source);
  ChatTemplate chat = parse(main->get<std::string>(), source, std::move(variables));
  if (const Json* tools = named("tool_use")) {
    chat.tool_use_ =
        std::make_unique<Template>(Template::parse(tools->get<std::string>(), source, kChatSyntax));
  }
  return chat;
}

std::string ChatTemplate::render(const Json& messages, const Json& tools,
                                 const ChatTemplateOptions& options, const Json& kwargs) const {
  if (!messages.is_array()) throw Error("messages: expected an array");
  if (!tools.is_null() && !tools.is_array()) throw Error("tools: expected an array");
  if (!kwargs.is_null() && !kwargs.is_object())
    throw Error("chat_template_kwargs: expected an object");
  if (options.continue_final_message && options.add_generation_prompt) {
    throw Error("continue_final_message and add_generation_prompt exclude each other");
  }
  Json context = variables_;
  context["messages"] = messages;
  context["tools"] = tools;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  if (kwargs.is_object()) context.update(kwargs);
  const bool with_tools = tools.is_array() && !tools.empty() && tool_use_ != nullptr;
  std::string rendered = (with_tools ? *tool_use_ : default_).render(context);
  return options.continue_final_message ? cut_behind_final_message(std::move(rendered), messages)
                                        : rendered;
}

}  // namespace quern
