// See chat_request.h. Rules between fields: vLLM entrypoints/openai/chat_completion/protocol.py.
#include "quern/server/chat_request.h"

#include <fmt/format.h>

#include <array>
#include <variant>

#include "quern/server/api_error.h"
#include "quern/server/field_reader.h"
#include "quern/server/structured_output.h"

namespace quern::server {
namespace {

// The members of ChatRequest whose type says all about how they are read.
using Member = std::variant<bool ChatRequest::*, std::int64_t ChatRequest::*,
                            std::string ChatRequest::*, std::optional<std::int64_t> ChatRequest::*>;

struct Field {
  std::string_view name;
  Member member;
};

const auto kFields = std::to_array<Field>({
    {"max_completion_tokens", &ChatRequest::max_completion_tokens},
    {"max_tokens", &ChatRequest::max_tokens},
    {"logprobs", &ChatRequest::logprobs},
    {"top_logprobs", &ChatRequest::top_logprobs},
    {"parallel_tool_calls", &ChatRequest::parallel_tool_calls},
    {"include_reasoning", &ChatRequest::include_reasoning},
    {"chat_template", &ChatRequest::chat_template},
    {"thinking_token_budget", &ChatRequest::thinking_token_budget},
    {"reasoning_effort", &ChatRequest::reasoning_effort},
    {"add_generation_prompt", &ChatRequest::add_generation_prompt},
    {"continue_final_message", &ChatRequest::continue_final_message},
    {"echo", &ChatRequest::echo},
});

// Fields that change the answer and that this build does not implement: refused, not ignored.
constexpr auto kUnsupported = std::to_array<std::string_view>({
    "mm_processor_kwargs",
    "media_io_kwargs",
});

void refuse_unsupported(const Json& body) {
  for (const std::string_view name : kUnsupported) {
    const auto field = body.find(std::string(name));
    if (field != body.end() && !field->is_null()) {
      throw ApiError(501, fmt::format("`{}` is not supported by this build yet.", name),
                     std::string(name));
    }
  }
}

void check_messages(const ChatRequest& request, FieldReader& reader) {
  for (const Json& message : request.messages) {
    if (!message.is_object()) {
      return reader.fail("messages", "dict_type", "Input should be a valid dictionary", message);
    }
    const auto role = message.find("role");
    if (role == message.end()) {
      return reader.fail("messages", "missing", "Field required: role", message);
    }
    if (!role->is_string()) {
      return reader.fail("messages", "string_type", "Input should be a valid string: role", *role);
    }
  }
}

void check_tools(const ChatRequest& request, FieldReader& reader) {
  for (const Json& tool : request.tools) {
    const bool named = tool.is_object() && tool.contains("function") &&
                       tool["function"].is_object() && tool["function"].contains("name") &&
                       tool["function"]["name"].is_string();
    if (!named) {
      return reader.fail("tools", "missing", "Field required: function.name", tool);
    }
    const Json& function = tool["function"];
    if (const auto parameters = function.find("parameters");
        parameters != function.end() && !parameters->is_null() && !parameters->is_object()) {
      return reader.fail("tools", "dict_type",
                         "Input should be a valid dictionary: function.parameters", *parameters);
    }
  }
}

// A name that is not of these is a wrong type of the field in pydantic, so a validation error.
void check_tool_choice(const ChatRequest& request, FieldReader& reader) {
  const Json& choice = request.tool_choice;
  if (choice.is_null() || choice == "none" || choice == "auto" || choice == "required") return;
  const bool named = choice.is_object() && choice.contains("function") &&
                     choice["function"].is_object() && choice["function"].contains("name") &&
                     choice["function"]["name"].is_string();
  if (!named) {
    reader.fail("tool_choice", "literal_error",
                "Input should be none, auto, required or an object that names a function", choice);
  }
}

void check_rules(const ChatRequest& request, const Json& body) {
  // Each is looked for among all others on its way into the template.
  constexpr std::size_t kMaxKwargs = 1024;
  if (const std::size_t count = request.chat_template_kwargs.size(); count > kMaxKwargs) {
    throw ApiError(
        400,
        fmt::format("`chat_template_kwargs` can have at most {} keys, got {}.", kMaxKwargs, count),
        "chat_template_kwargs");
  }
  if (request.tools.is_array() && request.tools.empty()) {
    throw parameter_error(
        "`tools` must not be an empty array. Either provide at least one tool or leave the field "
        "out.",
        "tools", request.tools);
  }
  const bool choice_needs_tools = !request.tool_choice.is_null() && request.tool_choice != "none";
  if (choice_needs_tools && request.tools.is_null()) {
    throw parameter_error("When using `tool_choice`, `tools` must be set.", "tool_choice",
                          request.tool_choice);
  }
  if (request.top_logprobs != 0 && !request.logprobs) {
    throw parameter_error("when using `top_logprobs`, `logprobs` must be set to true.",
                          "top_logprobs", request.top_logprobs);
  }
  if (request.top_logprobs < -1) {
    throw parameter_error("`top_logprobs` must be a positive value or -1.", "top_logprobs",
                          request.top_logprobs);
  }
  if (request.continue_final_message && request.add_generation_prompt &&
      body.contains("add_generation_prompt")) {
    throw ApiError(400,
                   "Cannot set both `continue_final_message` and `add_generation_prompt` to True.");
  }
}

}  // namespace

Json chat_fields_schema() {
  const ChatRequest defaults;
  Json properties = Json::object();
  for (const Field& field : kFields) {
    properties[std::string(field.name)] =
        std::visit([&](auto member) { return schema_of(defaults.*member); }, field.member);
  }
  return properties;
}

ChatRequest parse_chat_request(std::string_view text) {
  return read_chat_request(parse_body(text));
}

ChatRequest read_chat_request(const Json& body) {
  ChatRequest request;
  FieldReader reader(body, "'body'");
  reader.require("messages");
  reader.read_json("messages", JsonKind::kList, request.messages);
  read_sampling_request(reader, request);
  for (const Field& field : kFields) {
    std::visit([&](auto member) { reader.read(field.name, request.*member); }, field.member);
  }
  reader.read_json("tools", JsonKind::kList, request.tools);
  reader.read_json("tool_choice", JsonKind::kAny, request.tool_choice);
  reader.read_json("chat_template_kwargs", JsonKind::kObject, request.chat_template_kwargs);
  reader.read_json("documents", JsonKind::kList, request.documents);
  check_messages(request, reader);
  check_tools(request, reader);
  check_tool_choice(request, reader);
  if (body.contains("messages") && body["messages"].is_null()) {
    reader.fail("messages", "list_type", "Input should be a valid list", nullptr);
  }
  reader.finish();
  check_sampling_request(request, body);
  check_rules(request, body);
  refuse_unsupported(body);
  request.structured_output = read_structured_output(body);
  if (request.continue_final_message && !body.contains("add_generation_prompt")) {
    request.add_generation_prompt = false;
  }
  return request;
}

}  // namespace quern::server
