// See responses_response.h. Layout: vLLM entrypoints/openai/responses/protocol.py.
#include "quern/server/responses_response.h"

#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/sampling_plan.h"

namespace quern::server {
namespace {

Json reasoning_item(const std::string& id, const Json& content) {
  return {{"id", id},           {"summary", Json::array()},     {"type", "reasoning"},
          {"content", content}, {"encrypted_content", nullptr}, {"status", nullptr}};
}

Json message_item(const std::string& id, const Json& content, const char* status) {
  return {{"id", id},
          {"content", content},
          {"role", "assistant"},
          {"status", status},
          {"type", "message"}};
}

Json call_item(const std::string& id, const std::string& call_id, const std::string& name,
               const std::string& arguments, const char* status) {
  return {{"arguments", arguments},  {"call_id", call_id}, {"name", name},
          {"type", "function_call"}, {"id", id},           {"status", status}};
}

Json reasoning_part(const std::string& text) {
  return {{"text", text}, {"type", "reasoning_text"}};
}

Json text_part(const std::string& text) {
  return {{"annotations", Json::array()},
          {"text", text},
          {"type", "output_text"},
          {"logprobs", nullptr}};
}

}  // namespace

Json response_json(const ChatPlan& plan, const ResponsesRequest& request, const std::string& status,
                   Json output, Json usage) {
  const auto echoed = [&](const char* name, Json otherwise) {
    const auto field = request.body.find(name);
    return field == request.body.end() || field->is_null() ? otherwise : *field;
  };
  Json details = nullptr;
  if (status == "incomplete") details = {{"reason", "max_output_tokens"}};
  return {{"id", plan.id},
          {"created_at", plan.created},
          {"incomplete_details", std::move(details)},
          {"instructions", echoed("instructions", nullptr)},
          {"metadata", echoed("metadata", nullptr)},
          {"model", plan.model},
          {"object", "response"},
          {"output", std::move(output)},
          {"parallel_tool_calls", plan.parallel_tool_calls},
          {"temperature", plan.sampling.temperature},
          {"tool_choice", echoed("tool_choice", "auto")},
          {"tools", echoed("tools", Json::array())},
          {"top_p", plan.sampling.top_p},
          {"background", false},
          {"max_output_tokens", plan.sampling.max_tokens},
          {"max_tool_calls", nullptr},
          {"previous_response_id", echoed("previous_response_id", nullptr)},
          {"prompt", nullptr},
          {"reasoning", echoed("reasoning", nullptr)},
          {"service_tier", "auto"},
          {"status", status},
          {"text", echoed("text", nullptr)},
          {"top_logprobs", echoed("top_logprobs", nullptr)},
          {"truncation", echoed("truncation", "disabled")},
          {"usage", std::move(usage)},
          {"user", echoed("user", nullptr)}};
}

Json response_usage(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"output_tokens", usage.completion_tokens},
          {"output_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

std::string response_status(const std::string& finish_reason) {
  return finish_reason == "length" ? "incomplete" : "completed";
}

Json response_items(const ChatChoice& choice) {
  Json items = Json::array();
  if (!choice.reasoning.empty()) {
    items.push_back(
        reasoning_item("rs_" + random_id(), Json::array({reasoning_part(choice.reasoning)})));
  }
  const bool blank = choice.content.find_first_not_of(" \t\r\n") == std::string::npos;
  if (!choice.content.empty() && !(blank && !choice.tool_calls.empty())) {
    items.push_back(
        message_item("msg_" + random_id(), Json::array({text_part(choice.content)}), "completed"));
  }
  for (const ToolCallDelta& call : choice.tool_calls) {
    items.push_back(
        call_item("fc_" + random_id(), call.id, call.name, call.arguments, "completed"));
  }
  return items;
}

Json assistant_message(const ChatChoice& choice) {
  Json message = {{"role", "assistant"}, {"content", text_or_null(choice.content)}};
  if (!choice.reasoning.empty()) message["reasoning"] = choice.reasoning;
  for (const ToolCallDelta& call : choice.tool_calls) {
    message["tool_calls"].push_back(
        {{"id", call.id},
         {"type", "function"},
         {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return message;
}

std::string ResponseEvents::event(const char* type, Json fields) {
  Json json = {{"type", type}, {"sequence_number", sequence_++}};
  json.update(fields);
  return sse_event(json, type);
}

std::string ResponseEvents::part_event(const char* type, Json fields) {
  Json place = {{"item_id", item_id_}, {"output_index", items_.size()}};
  if (open_ != Item::kCall) place["content_index"] = 0;
  place.update(fields);
  return event(type, std::move(place));
}

std::string ResponseEvents::opening() {
  const Json response = response_json(plan_, request_, "in_progress", Json::array(), nullptr);
  std::string events = event("response.created", {{"response", response}});
  return events += event("response.in_progress", {{"response", response}});
}

std::string ResponseEvents::open_text(Item kind) {
  std::string events = close_item();
  open_ = kind;
  const bool reasoning = kind == Item::kReasoning;
  item_id_ = (reasoning ? "rs_" : "msg_") + random_id();
  events += event("response.output_item.added",
                  {{"output_index", items_.size()},
                   {"item", reasoning ? reasoning_item(item_id_, Json::array())
                                      : message_item(item_id_, Json::array(), "in_progress")}});
  return events +=
         part_event(reasoning ? "response.reasoning_part.added" : "response.content_part.added",
                    {{"part", reasoning ? reasoning_part("") : text_part("")}});
}

std::string ResponseEvents::open_call(const ToolCallDelta& call) {
  std::string events = close_item();
  open_ = Item::kCall;
  item_id_ = "fc_" + random_id();
  call_id_ = call.id;
  name_ = call.name;
  return events += event("response.output_item.added",
                         {{"output_index", items_.size()},
                          {"item", call_item(item_id_, call_id_, name_, "", "in_progress")}});
}

std::string ResponseEvents::add_text(Item kind, const std::string& text) {
  std::string events;
  if (open_ != kind) events = open_text(kind);
  text_ += text;
  if (kind == Item::kReasoning) {
    return events += part_event("response.reasoning_text.delta", {{"delta", text}});
  }
  return events +=
         part_event("response.output_text.delta", {{"delta", text}, {"logprobs", Json::array()}});
}

std::string ResponseEvents::close_item() {
  std::string events;
  Json item;
  switch (open_) {
    case Item::kNone:
      return {};
    case Item::kReasoning:
      events = part_event("response.reasoning_text.done", {{"text", text_}});
      events += part_event("response.reasoning_part.done", {{"part", reasoning_part(text_)}});
      item = reasoning_item(item_id_, Json::array({reasoning_part(text_)}));
      break;
    case Item::kMessage:
      events =
          part_event("response.output_text.done", {{"text", text_}, {"logprobs", Json::array()}});
      events += part_event("response.content_part.done", {{"part", text_part(text_)}});
      item = message_item(item_id_, Json::array({text_part(text_)}), "completed");
      break;
    case Item::kCall:
      events = part_event("response.function_call_arguments.done",
                          {{"arguments", text_}, {"name", name_}});
      item = call_item(item_id_, call_id_, name_, text_, "completed");
      break;
  }
  events += event("response.output_item.done", {{"output_index", items_.size()}, {"item", item}});
  items_.push_back(std::move(item));
  text_.clear();
  open_ = Item::kNone;
  return events;
}

std::string ResponseEvents::delta(const ChatDelta& delta) {
  completion_.add(delta);
  std::string events;
  if (!delta.reasoning.empty()) events += add_text(Item::kReasoning, delta.reasoning);
  if (!delta.content.empty()) events += add_text(Item::kMessage, delta.content);
  for (const ToolCallDelta& call : delta.tool_calls) {
    if (!call.id.empty()) events += open_call(call);
    if (call.arguments.empty()) continue;
    text_ += call.arguments;
    events += part_event("response.function_call_arguments.delta", {{"delta", call.arguments}});
  }
  return events;
}

std::string ResponseEvents::closing(const Usage& usage) {
  std::string events = close_item();
  response_ = response_json(plan_, request_, response_status(choice().finish_reason), items_,
                            response_usage(usage));
  return events += event("response.completed", {{"response", response_}});
}

std::string ResponseEvents::failure(const ApiError& error) {
  Json response = response_json(plan_, request_, "failed", items_, nullptr);
  response["error"] = {{"code", "server_error"}, {"message", error.what()}};
  return event("response.failed", {{"response", std::move(response)}});
}

}  // namespace quern::server
