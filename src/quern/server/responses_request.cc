// See responses_request.h.
#include "quern/server/responses_request.h"

#include <fmt/format.h>

#include <utility>

#include "quern/server/api_error.h"
#include "quern/server/field_reader.h"
#include "quern/server/sampling_request.h"

namespace quern::server {
namespace {

[[noreturn]] void fail(const std::string& message, const char* param = "input") {
  throw ApiError(400, message, param);
}

std::string text_of(const Json& item, const char* name) {
  const auto text = item.find(name);
  if (text == item.end() || !text->is_string()) {
    fail(fmt::format("an input item of type {} needs a string `{}`",
                     python_repr(item.value("type", Json("message")), 64), name));
  }
  return text->get<std::string>();
}

std::string type_of(const Json& item) {
  if (!item.is_object()) fail("an input item must be an object");
  return item.contains("type") ? text_of(item, "type") : "message";
}

Json message_content(const Json& content) {
  if (content.is_string()) return content;
  if (!content.is_array()) fail("`content` must be a string or a list of parts");
  Json parts = Json::array();
  for (const Json& part : content) {
    const std::string type = type_of(part);
    if (type == "input_text" || type == "output_text" || type == "text") {
      parts.push_back({{"type", "text"}, {"text", text_of(part, "text")}});
    } else if (type == "refusal") {
      parts.push_back({{"type", "text"}, {"text", text_of(part, "refusal")}});
    } else if (type == "input_image") {
      parts.push_back(
          {{"type", "image_url"}, {"image_url", {{"url", text_of(part, "image_url")}}}});
    } else {
      fail(fmt::format("content parts of type {} are not supported", python_repr(type, 64)));
    }
  }
  return parts;
}

std::string reasoning_text(const Json& item) {
  std::string text;
  for (const char* list : {"content", "summary"}) {
    const auto parts = item.find(list);
    if (parts == item.end() || !parts->is_array() || !text.empty()) continue;
    for (const Json& part : *parts) {
      if (!part.is_object()) fail("a part of a reasoning item must be an object");
      text += text_of(part, "text");
    }
  }
  return text;
}

// Reasoning, text and calls of one turn of the model become one assistant message.
class ItemConverter {
 public:
  explicit ItemConverter(Json& messages) : messages_(messages) {}

  void add(const Json& item) {
    const std::string type = type_of(item);
    if (type == "reasoning") {
      assistant(/*begins_turn=*/true)["reasoning"] = reasoning_text(item);
    } else if (type == "function_call") {
      Json& message = assistant(false);
      if (!message.contains("tool_calls")) message["tool_calls"] = Json::array();
      message["tool_calls"].push_back(
          {{"id", text_of(item, "call_id")},
           {"type", "function"},
           {"function",
            {{"name", text_of(item, "name")}, {"arguments", text_of(item, "arguments")}}}});
    } else if (type == "function_call_output") {
      const auto output = item.find("output");
      if (output == item.end()) fail("an input item of type 'function_call_output' needs `output`");
      push({{"role", "tool"},
            {"tool_call_id", text_of(item, "call_id")},
            {"content", message_content(*output)}});
    } else if (type == "message") {
      if (!item.contains("content")) fail("a message needs `content`");
      Json content = message_content(item["content"]);
      if (text_of(item, "role") != "assistant") {
        push({{"role", item["role"]}, {"content", std::move(content)}});
      } else if (Json& message = assistant(false);
                 message["content"].is_null() && !message.contains("tool_calls")) {
        message["content"] = std::move(content);
      } else {
        push({{"role", "assistant"}, {"content", std::move(content)}});
        open_ = true;
      }
    } else {
      fail(fmt::format("input items of type {} are not supported", python_repr(type, 64)));
    }
  }

 private:
  Json& assistant(bool begins_turn) {
    if (!open_ || begins_turn) messages_.push_back({{"role", "assistant"}, {"content", nullptr}});
    open_ = true;
    return messages_.back();
  }
  void push(Json message) {
    messages_.push_back(std::move(message));
    open_ = false;
  }

  Json& messages_;
  bool open_ = false;  // the last message is of the model and goes on
};

Json chat_tools(const Json& tools) {
  Json result = Json::array();
  for (const Json& tool : tools) {
    if (!tool.is_object() || tool.value("type", Json(nullptr)) != "function") {
      fail("only tools of type 'function' are supported", "tools");
    }
    Json function = Json::object();
    for (const char* name : {"name", "description", "parameters", "strict"}) {
      if (tool.contains(name) && !tool[name].is_null()) function[name] = tool[name];
    }
    result.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return result;
}

Json chat_tool_choice(const Json& choice) {
  if (!choice.is_object()) return choice;
  if (choice.value("type", Json(nullptr)) != "function" || !choice.contains("name")) {
    fail("`tool_choice` must be none, auto, required or name a function", "tool_choice");
  }
  return {{"type", "function"}, {"function", {{"name", choice["name"]}}}};
}

Json response_format(const Json& format) {
  if (!format.is_object() || format.value("type", Json(nullptr)) != "json_schema") return format;
  Json schema = Json::object();
  for (const char* name : {"name", "description", "schema", "strict"}) {
    if (format.contains(name)) schema[name] = format[name];
  }
  return {{"type", "json_schema"}, {"json_schema", std::move(schema)}};
}

void set_tools(const Json& body, Json& chat) {
  const auto tools = body.find("tools");
  if (tools == body.end() || !tools->is_array() || tools->empty()) return;
  chat["tools"] = chat_tools(*tools);
  if (const auto choice = body.find("tool_choice"); choice != body.end()) {
    chat["tool_choice"] = chat_tool_choice(*choice);
  }
}

void refuse(const Json& body) {
  const auto given = [&](const char* name) {
    const auto field = body.find(name);
    return field != body.end() && !field->is_null() && *field != false;
  };
  if (given("prompt")) {
    throw ApiError(501, "`prompt` (a stored prompt template) is not supported", "prompt");
  }
  if (given("background")) {
    throw ApiError(501, "`background` is not supported: responses end with their request",
                   "background");
  }
}

}  // namespace

ResponsesRequest parse_responses_request(std::string_view text,
                                         const std::function<Json(const std::string&)>& history) {
  ResponsesRequest request;
  request.body = parse_body(text);
  const Json& body = request.body;
  std::string instructions, previous;
  Json format, reasoning, text_options;
  FieldReader reader(body, "'body'");
  reader.require("input");
  reader.read("instructions", instructions);
  reader.read("previous_response_id", previous);
  reader.read("store", request.store);
  reader.read_json("reasoning", JsonKind::kObject, reasoning);
  reader.read_json("text", JsonKind::kObject, text_options);
  Json tools;
  reader.read_json("tools", JsonKind::kList, tools);
  const Json input = body.value("input", Json(nullptr));
  if (!input.is_string() && !input.is_array()) {
    reader.fail("input", "string_type", "Input should be a valid string or a list of items", input);
  }
  reader.finish();
  refuse(body);

  Json& chat = request.chat;
  chat = {{"messages", Json::array()}};
  if (!previous.empty()) {
    chat["messages"] = history(previous);
    if (chat["messages"].is_null()) {
      throw ApiError(404, fmt::format("Response with id '{}' not found.", previous),
                     "previous_response_id");
    }
  }
  if (!instructions.empty()) {
    Json& messages = chat["messages"];
    messages.insert(messages.begin(), Json({{"role", "system"}, {"content", instructions}}));
  }
  if (input.is_string()) {
    chat["messages"].push_back({{"role", "user"}, {"content", input}});
  } else {
    ItemConverter converter(chat["messages"]);
    for (const Json& item : input) converter.add(item);
  }
  for (const char* same :
       {"model", "temperature", "top_p", "top_k", "stream", "parallel_tool_calls", "seed", "stop",
        "ignore_eos", "repetition_penalty", "logit_bias", "structured_outputs", "priority",
        "cache_salt", "skip_special_tokens", "chat_template_kwargs"}) {
    if (const auto field = body.find(same); field != body.end()) chat[same] = *field;
  }
  if (body.contains("max_output_tokens")) chat["max_tokens"] = body["max_output_tokens"];
  if (reasoning.contains("effort")) chat["reasoning_effort"] = reasoning["effort"];
  if (text_options.contains("format")) {
    chat["response_format"] = response_format(text_options["format"]);
  }
  set_tools(body, chat);
  return request;
}

}  // namespace quern::server
