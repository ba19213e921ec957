// See messages_request.h.
#include "quern/server/messages_request.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "quern/server/api_error.h"
#include "quern/server/field_reader.h"
#include "quern/server/sampling_request.h"

namespace quern::server {
namespace {

[[noreturn]] void fail(const std::string& message) { throw ApiError(400, message, "messages"); }

// The string member of a block.
std::string text_of(const Json& block, const char* name) {
  const auto text = block.find(name);
  if (text == block.end() || !text->is_string()) {
    fail(fmt::format("a content block of type {} needs a string `{}`",
                     python_repr(block.value("type", Json(nullptr)), 64), name));
  }
  return text->get<std::string>();
}

std::string type_of(const Json& block) {
  if (!block.is_object()) fail("a content block must be an object");
  return text_of(block, "type");
}

Json image_part(const Json& block) {
  const auto source = block.find("source");
  if (source == block.end() || !source->is_object()) fail("an image block needs a `source`");
  std::string url;
  if (type_of(*source) == "url") {
    url = text_of(*source, "url");
  } else {
    const auto type = source->find("media_type");
    url = fmt::format(
        "data:{};base64,{}",
        type != source->end() && type->is_string() ? type->get<std::string>() : "image/jpeg",
        text_of(*source, "data"));
  }
  return {{"type", "image_url"}, {"image_url", {{"url", std::move(url)}}}};
}

// One message of the request becomes one or several of the chat.
class MessageConverter {
 public:
  explicit MessageConverter(Json& out) : out_(out) {}

  void add(const Json& message) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      fail("a message needs a string `role`");
    }
    std::string role = message["role"].get<std::string>();
    if (role == "ctx" || role == "msg") role = "user";
    const auto content = message.find("content");
    if (content == message.end()) fail("a message needs `content`");
    Json result = {{"role", role}};
    if (content->is_string()) {
      result["content"] = *content;
      out_.push_back(std::move(result));
      return;
    }
    if (!content->is_array()) fail("`content` must be a string or a list of blocks");
    parts_ = Json::array();
    calls_ = Json::array();
    reasoning_.clear();
    for (const Json& block : *content) add_block(block);
    if (parts_.empty() && calls_.empty() && reasoning_.empty()) return;
    result["content"] = parts_.empty() ? Json(nullptr) : std::move(parts_);
    if (!reasoning_.empty()) result["reasoning"] = std::move(reasoning_);
    if (!calls_.empty()) result["tool_calls"] = std::move(calls_);
    out_.push_back(std::move(result));
  }

 private:
  void add_block(const Json& block) {
    const std::string type = type_of(block);
    if (type == "text") {
      parts_.push_back({{"type", "text"}, {"text", text_of(block, "text")}});
    } else if (type == "image") {
      parts_.push_back(image_part(block));
    } else if (type == "thinking") {
      reasoning_ += text_of(block, "thinking");
    } else if (type == "tool_use") {
      const auto input = block.find("input");
      calls_.push_back(
          {{"id", text_of(block, "id")},
           {"type", "function"},
           {"function",
            {{"name", text_of(block, "name")},
             {"arguments", input == block.end() || input->is_null() ? "{}" : dump(*input)}}}});
    } else if (type == "tool_result") {
      add_tool_result(block);
    } else if (type != "redacted_thinking") {
      fail(fmt::format("content blocks of type {} are not supported", python_repr(type, 64)));
    }
  }

  // A message of its own before the one that holds it; images follow from the user.
  void add_tool_result(const Json& block) {
    std::string text;
    Json images = Json::array();
    const auto content = block.find("content");
    if (content != block.end() && content->is_string()) {
      text = content->get<std::string>();
    } else if (content != block.end() && content->is_array()) {
      bool first = true;
      for (const Json& part : *content) {
        if (type_of(part) == "image") {
          images.push_back(image_part(part));
          continue;
        }
        if (!std::exchange(first, false)) text += '\n';
        text += text_of(part, "text");
      }
    }
    out_.push_back({{"role", "tool"},
                    {"tool_call_id", text_of(block, "tool_use_id")},
                    {"content", std::move(text)}});
    if (!images.empty()) out_.push_back({{"role", "user"}, {"content", std::move(images)}});
  }

  Json& out_;
  Json parts_, calls_;
  std::string reasoning_;
};

// Text of the system prompt. The client's billing header changes with each request and would keep
// the prefix cache from ever matching.
std::string system_text(const Json& system) {
  if (system.is_string()) return system.get<std::string>();
  std::string text;
  for (const Json& block : system) {
    if (!block.is_object()) fail("a block of `system` must be an object");
    const std::string piece = text_of(block, "text");
    if (!piece.starts_with("x-anthropic-billing-header")) text += piece;
  }
  return text;
}

Json chat_tools(const Json& tools) {
  Json result = Json::array();
  for (const Json& tool : tools) {
    if (!tool.is_object() || !tool.contains("name") || !tool["name"].is_string()) {
      throw ApiError(400, "a tool needs a string `name`", "tools");
    }
    Json parameters = tool.value("input_schema", Json::object());
    if (parameters.is_null()) parameters = Json::object();
    if (!parameters.is_object()) {
      throw ApiError(400, "`input_schema` of a tool must be an object", "tools");
    }
    if (!parameters.contains("type")) parameters["type"] = "object";
    Json function = {{"name", tool["name"]}};
    if (tool.contains("description")) function["description"] = tool["description"];
    function["parameters"] = std::move(parameters);
    result.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return result;
}

void set_tool_choice(const Json& choice, Json& chat) {
  const Json type = choice.value("type", Json());
  if (type == "auto" || type == "none") {
    chat["tool_choice"] = type;
  } else if (type == "any") {
    chat["tool_choice"] = "required";
  } else if (type == "tool" && choice.contains("name") && choice["name"].is_string()) {
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", choice["name"]}}}};
  } else {
    throw ApiError(400, "`tool_choice` must be of type auto, any, none, or tool with a name",
                   "tool_choice");
  }
  if (choice.value("disable_parallel_tool_use", Json(false)) == true) {
    chat["parallel_tool_calls"] = false;
  }
}

void set_output_config(const Json& config, Json& chat) {
  if (const auto effort = config.find("effort"); effort != config.end() && !effort->is_null()) {
    chat["reasoning_effort"] = *effort;
  }
  const auto format = config.find("format");
  if (format == config.end() || !format->is_object()) return;
  chat["response_format"] = {
      {"type", "json_schema"},
      {"json_schema", {{"name", "output"}, {"schema", format->value("schema", Json::object())}}}};
}

}  // namespace

Json chat_body_of_messages(std::string_view text, bool needs_max_tokens) {
  const Json body = parse_body(text);
  Json messages, system, tools, choice, output_config;
  std::string model;
  std::int64_t max_tokens = 0;
  FieldReader reader(body, "'body'");
  reader.require("model");
  reader.read("model", model);
  reader.require("messages");
  reader.read_json("messages", JsonKind::kList, messages);
  if (needs_max_tokens) reader.require("max_tokens");
  reader.read("max_tokens", max_tokens);
  reader.read_json("system", JsonKind::kAny, system);
  reader.read_json("tools", JsonKind::kList, tools);
  reader.read_json("tool_choice", JsonKind::kObject, choice);
  reader.read_json("output_config", JsonKind::kObject, output_config);
  if (!system.is_null() && !system.is_string() && !system.is_array()) {
    reader.fail("system", "string_type", "Input should be a valid string", system);
  }
  if (messages.is_null()) {
    reader.fail("messages", "list_type", "Input should be a valid list", messages);
  }
  reader.finish();
  if (needs_max_tokens && max_tokens <= 0) {
    throw ApiError(400, "max_tokens must be positive", "max_tokens");
  }

  Json chat = {{"model", model}, {"messages", Json::array()}};
  if (const std::string instructions = system.is_null() ? "" : system_text(system);
      !instructions.empty()) {
    chat["messages"].push_back({{"role", "system"}, {"content", instructions}});
  }
  MessageConverter converter(chat["messages"]);
  for (const Json& message : messages) converter.add(message);
  if (needs_max_tokens) chat["max_tokens"] = max_tokens;
  const std::pair<const char*, const char*> kSame[] = {
      {"stop_sequences", "stop"},
      {"stream", "stream"},
      {"temperature", "temperature"},
      {"top_p", "top_p"},
      {"top_k", "top_k"},
      {"chat_template_kwargs", "chat_template_kwargs"}};
  for (const auto& [from, to] : kSame) {
    if (const auto field = body.find(from); field != body.end()) chat[to] = *field;
  }
  if (!tools.empty()) {
    chat["tools"] = chat_tools(tools);
    if (!choice.is_null()) set_tool_choice(choice, chat);
  }
  if (!output_config.is_null()) set_output_config(output_config, chat);
  return chat;
}

}  // namespace quern::server
