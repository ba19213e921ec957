// See messages_response.h. Layout: vLLM entrypoints/anthropic/protocol.py.
#include "quern/server/messages_response.h"

#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/sampling_plan.h"

namespace quern::server {
namespace {

// Stop sequences end a turn too, as the peer says.
std::string stop_reason(const std::string& finish_reason) {
  if (finish_reason == "length") return "max_tokens";
  return finish_reason == "tool_calls" ? "tool_use" : "end_turn";
}

Json call_input(const std::string& arguments) {
  Json input = Json::parse(arguments, nullptr, false);
  return input.is_object() ? input : Json::object();
}

Json message_json(const ChatPlan& plan, Json content, const std::string& reason, int input_tokens,
                  int output_tokens) {
  return {{"id", plan.id},
          {"type", "message"},
          {"role", "assistant"},
          {"content", std::move(content)},
          {"model", plan.model},
          {"stop_reason", text_or_null(reason)},
          {"stop_sequence", nullptr},
          {"usage", {{"input_tokens", input_tokens}, {"output_tokens", output_tokens}}}};
}

}  // namespace

Json message_body(const ChatPlan& plan, const ChatCompletion& completion) {
  const ChatChoice& choice = completion.choices.at(0);
  Json content = Json::array();
  if (!choice.reasoning.empty()) {
    content.push_back(
        {{"type", "thinking"}, {"thinking", choice.reasoning}, {"signature", random_id()}});
  }
  const bool blank = choice.content.find_first_not_of(" \t\r\n") == std::string::npos;
  if (!choice.content.empty() && !(blank && !choice.tool_calls.empty())) {
    content.push_back({{"type", "text"}, {"text", choice.content}});
  }
  for (const ToolCallDelta& call : choice.tool_calls) {
    content.push_back({{"type", "tool_use"},
                       {"id", call.id},
                       {"name", call.name},
                       {"input", call_input(call.arguments)}});
  }
  return message_json(plan, std::move(content), stop_reason(choice.finish_reason),
                      completion.usage.prompt_tokens, completion.usage.completion_tokens);
}

Json message_error(const ApiError& error) {
  const char* type = "invalid_request_error";
  switch (error.status()) {
    case 401:
      type = "authentication_error";
      break;
    case 404:
      type = "not_found_error";
      break;
    case 413:
      type = "request_too_large";
      break;
    case 429:
      type = "rate_limit_error";
      break;
    default:
      if (error.status() >= 500) type = "api_error";
  }
  return {{"type", "error"}, {"error", {{"type", type}, {"message", error.what()}}}};
}

std::string MessageEvents::opening() {
  return sse_event({{"type", "message_start"},
                    {"message", message_json(plan_, Json::array(), "",
                                             static_cast<int>(plan_.prompt.size()), 0)}},
                   "message_start");
}

std::string MessageEvents::start_block(Block kind, Json content) {
  std::string events = end_block();
  open_ = kind;
  return events += sse_event({{"type", "content_block_start"},
                              {"index", index_},
                              {"content_block", std::move(content)}},
                             "content_block_start");
}

std::string MessageEvents::block_delta(Json delta) const {
  return sse_event(
      {{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(delta)}},
      "content_block_delta");
}

std::string MessageEvents::end_block() {
  if (open_ == Block::kNone) return {};
  std::string events;
  if (open_ == Block::kThinking) {
    events = block_delta({{"type", "signature_delta"}, {"signature", random_id()}});
  }
  events += sse_event({{"type", "content_block_stop"}, {"index", index_}}, "content_block_stop");
  open_ = Block::kNone;
  ++index_;
  return events;
}

std::string MessageEvents::delta(const ChatDelta& delta) {
  std::string events;
  if (!delta.reasoning.empty()) {
    if (open_ != Block::kThinking) {
      events += start_block(Block::kThinking,
                            {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
    }
    events += block_delta({{"type", "thinking_delta"}, {"thinking", delta.reasoning}});
  }
  if (!delta.content.empty()) {
    if (open_ != Block::kText) {
      events += start_block(Block::kText, {{"type", "text"}, {"text", ""}});
    }
    events += block_delta({{"type", "text_delta"}, {"text", delta.content}});
  }
  for (const ToolCallDelta& call : delta.tool_calls) {
    if (!call.id.empty()) {
      events += start_block(
          Block::kToolUse,
          {{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", Json::object()}});
    }
    if (!call.arguments.empty()) {
      events += block_delta({{"type", "input_json_delta"}, {"partial_json", call.arguments}});
    }
  }
  if (!delta.finish_reason.empty()) stop_reason_ = stop_reason(delta.finish_reason);
  return events;
}

std::string MessageEvents::closing(const Usage& usage) {
  std::string events = end_block();
  events += sse_event(
      {{"type", "message_delta"},
       {"delta", {{"stop_reason", stop_reason_}, {"stop_sequence", nullptr}}},
       {"usage",
        {{"input_tokens", usage.prompt_tokens}, {"output_tokens", usage.completion_tokens}}}},
      "message_delta");
  return events += sse_event({{"type", "message_stop"}}, "message_stop");
}

std::string MessageEvents::failure(const ApiError& error) {
  return sse_event(message_error(error), "error");
}

}  // namespace quern::server
