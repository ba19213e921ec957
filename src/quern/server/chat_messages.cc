// See chat_messages.h.
#include "quern/server/chat_messages.h"

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "quern/server/api_error.h"
#include "quern/server/chat_request.h"
#include "quern/server/media_parts.h"

namespace quern::server {
namespace {

// Throws for what is wrong with one message; knows which one it is.
struct Place {
  std::size_t index;

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw ApiError(
        400,
        fmt::format("messages[{}]: {}", index, fmt::format(format, std::forward<Args>(args)...)),
        "messages");
  }
};

// The text of a part; parts of other kinds are refused.
std::string part_text(const Json& part, const Place& place) {
  if (part.is_string()) return part.get<std::string>();
  if (!part.is_object()) place.fail("a content part must be an object or a string");
  const auto type = part.find("type");
  std::string kind = type != part.end() && type->is_string() ? type->get<std::string>() : "";
  if (part_kind(part) != PartKind::kText) {
    place.fail("content parts of type {} are not supported.", python_repr(kind, 64));
  }
  if (kind.empty()) kind = "text";
  const auto text = part.find(kind);
  if (text == part.end() || !text->is_string()) {
    place.fail("a content part of type '{}' needs a string `{}`", kind, kind);
  }
  return text->get<std::string>();
}

Json content_of(const Json& message, ContentFormat format, const MediaPlaceholders& placeholders,
                const Place& place) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) return nullptr;
  Json parts = Json::array();
  std::string joined;
  const auto join = [&](std::string_view text) {
    if (!parts.empty()) joined += '\n';
    joined += text;
  };
  const auto add = [&](std::string text) {
    join(text);
    parts.push_back({{"type", "text"}, {"text", std::move(text)}});
  };
  if (content->is_string()) {
    add(content->get<std::string>());
  } else if (content->is_array()) {
    for (const Json& part : *content) {
      const PartKind kind = part_kind(part);
      if (kind == PartKind::kImage || kind == PartKind::kVideo) {
        const bool video = kind == PartKind::kVideo;
        join(video ? placeholders.video : placeholders.image);
        parts.push_back({{"type", video ? "video" : "image"}});
      } else {
        add(part_text(part, place));
      }
    }
  } else {
    place.fail("`content` must be a string, a list of parts or null");
  }
  if (format == ContentFormat::kOpenAi) return parts;
  return joined;
}

// A JSON string becomes the object it holds, so that a template can walk through it.
Json arguments_of(const Json& function, const Place& place) {
  const auto arguments = function.find("arguments");
  if (arguments == function.end() || arguments->is_null()) return Json::object();
  if (arguments->is_object()) return *arguments;
  if (!arguments->is_string()) place.fail("`arguments` of a tool call must be a JSON string");
  const auto& text = arguments->get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return Json::object();
  Json parsed;
  try {
    parsed = parse_json(text, "arguments of a tool call",
                        {.max_depth = kMaxJsonDepth, .reject_duplicate_keys = false});
  } catch (const Error& error) {
    place.fail("{}", error.what());
  }
  if (!parsed.is_object()) place.fail("`arguments` of a tool call must hold a JSON object");
  return parsed;
}

Json tool_calls_of(const Json& calls, const Place& place) {
  if (!calls.is_array()) place.fail("`tool_calls` must be a list");
  Json result = Json::array();
  for (const Json& call : calls) {
    const bool named = call.is_object() && call.contains("function") &&
                       call["function"].is_object() && call["function"].contains("name") &&
                       call["function"]["name"].is_string();
    if (!named) place.fail("a tool call needs `function.name`");
    Json entry = call;
    entry["function"]["arguments"] = arguments_of(call["function"], place);
    result.push_back(std::move(entry));
  }
  return result;
}

Json template_message(const Json& message, ContentFormat format,
                      const MediaPlaceholders& placeholders, const Place& place) {
  Json result = {{"role", message["role"]},
                 {"content", content_of(message, format, placeholders, place)}};
  if (const auto name = message.find("name"); name != message.end() && name->is_string()) {
    result["name"] = *name;
  }
  const Json& role = message["role"];
  if (role == "tool") {
    const auto id = message.find("tool_call_id");
    if (id != message.end() && id->is_string()) result["tool_call_id"] = *id;
  }
  if (role != "assistant") return result;
  for (const char* key : {"reasoning", "reasoning_content"}) {
    const auto reasoning = message.find(key);
    if (reasoning == message.end() || reasoning->is_null()) continue;
    if (!reasoning->is_string()) place.fail("`{}` must be a string", key);
    result["reasoning"] = *reasoning;
    result["reasoning_content"] = *reasoning;
    break;
  }
  const auto calls = message.find("tool_calls");
  if (calls != message.end() && !calls->is_null()) {
    Json parsed = tool_calls_of(*calls, place);
    if (!parsed.empty()) result["tool_calls"] = std::move(parsed);
  }
  return result;
}

}  // namespace

Json template_messages(const Json& messages, ContentFormat format,
                       const MediaPlaceholders& placeholders) {
  Json result = Json::array();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    result.push_back(template_message(messages[i], format, placeholders, Place{i}));
  }
  return result;
}

}  // namespace quern::server
