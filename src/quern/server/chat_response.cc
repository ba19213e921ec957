// See chat_response.h. Layout: vLLM entrypoints/openai/chat_completion/protocol.py and serving.py.
#include "quern/server/chat_response.h"

#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/api_error.h"
#include "quern/server/logprobs_json.h"

namespace quern::server {
namespace {

Json message_json(const ChatPlan& plan, const ChatChoice& choice) {
  const bool calls = !choice.tool_calls.empty();
  // With calls, blanks before the first one are no content (vLLM parser/abstract_parser.py).
  const bool blank = choice.content.find_first_not_of(" \t\r\n") == std::string::npos;
  Json message = {
      {"role", plan.role},
      {"content", calls && blank ? Json(nullptr) : text_or_null(plan.echo + choice.content)},
      {"refusal", nullptr},
      {"annotations", nullptr},
      {"audio", nullptr},
      {"function_call", nullptr}};
  if (calls) {
    Json list = Json::array();
    for (const ToolCallDelta& call : choice.tool_calls) {
      list.push_back({{"id", call.id},
                      {"type", "function"},
                      {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    message["tool_calls"] = std::move(list);
  }
  message["reasoning"] = text_or_null(choice.reasoning);
  return message;
}

Json delta_json(const ChatDelta& delta) {
  Json json = Json::object();
  if (!delta.reasoning.empty()) json["reasoning"] = delta.reasoning;
  if (!delta.content.empty()) json["content"] = delta.content;
  if (!delta.tool_calls.empty()) {
    Json list = Json::array();
    for (const ToolCallDelta& call : delta.tool_calls) {
      Json entry = {{"index", call.index}};
      Json function = Json::object();
      if (!call.id.empty()) {
        entry["id"] = call.id;
        entry["type"] = "function";
        function["name"] = call.name;
      }
      function["arguments"] = call.arguments;
      entry["function"] = std::move(function);
      list.push_back(std::move(entry));
    }
    json["tool_calls"] = std::move(list);
  }
  if (json.empty()) json["content"] = "";
  return json;
}

}  // namespace

ChatWriter::ChatWriter(const ChatPlan& plan, const Tokenizer& tokenizer, ChatWriterOptions options)
    : plan_(plan), tokenizer_(tokenizer), options_(options) {}

std::string ChatWriter::body(const ChatCompletion& completion) const {
  Json choices = Json::array();
  for (std::size_t i = 0; i < completion.choices.size(); ++i) {
    const ChatChoice& choice = completion.choices[i];
    choices.push_back({{"index", i},
                       {"message", message_json(plan_, choice)},
                       {"logprobs", plan_.sampling.logprobs
                                        ? chat_logprobs_json(plan_, choice.logprobs, tokenizer_)
                                        : Json(nullptr)},
                       {"finish_reason", choice.finish_reason},
                       {"stop_reason", choice.stop_reason},
                       {"token_ids", ids_or_null(plan_.return_token_ids, choice.token_ids)}});
  }
  return dump(
      {{"id", plan_.id},
       {"object", "chat.completion"},
       {"created", plan_.created},
       {"model", plan_.model},
       {"choices", std::move(choices)},
       {"service_tier", nullptr},
       {"system_fingerprint", nullptr},
       {"usage", body_usage_json(completion.usage, options_.prompt_tokens_details)},
       {"prompt_logprobs", prompt_logprobs_json(plan_, completion.prompt_logprobs, tokenizer_)},
       {"prompt_token_ids", ids_or_null(plan_.return_token_ids, plan_.prompt)},
       {"kv_transfer_params", nullptr}});
}

std::string ChatWriter::role_event(int choice) const {
  Json json = first_chunk(choice, {{"role", plan_.role}, {"content", ""}});
  json["prompt_token_ids"] = ids_or_null(plan_.return_token_ids, plan_.prompt);
  add_usage(json, 0);
  return sse_event(json);
}

std::string ChatWriter::content_event(int choice, const std::string& text) const {
  Json json = first_chunk(choice, {{"content", text}});
  add_usage(json, 0);
  return sse_event(json);
}

std::string ChatWriter::delta_event(const ChatDelta& delta) const {
  Json choice = {
      {"index", delta.choice},
      {"delta", delta_json(delta)},
      {"logprobs", plan_.sampling.logprobs ? chat_logprobs_json(plan_, delta.logprobs, tokenizer_)
                                           : Json(nullptr)},
      {"finish_reason", text_or_null(delta.finish_reason)}};
  if (!delta.finish_reason.empty()) choice["stop_reason"] = delta.stop_reason;
  choice["token_ids"] = ids_or_null(plan_.return_token_ids, delta.token_ids);
  Json json = chunk(Json::array({std::move(choice)}));
  add_usage(json, delta.completion_tokens);
  return sse_event(json);
}

std::string ChatWriter::usage_event(const Usage& usage) const {
  Json json = chunk(Json::array());
  json["usage"] = chunk_usage_json(usage, options_.prompt_tokens_details);
  return sse_event(json);
}

// The chunks before the model's own output have fewer members.
Json ChatWriter::first_chunk(int choice, Json delta) const {
  Json entry = {{"index", choice},
                {"delta", std::move(delta)},
                {"logprobs", nullptr},
                {"finish_reason", nullptr}};
  return chunk(Json::array({std::move(entry)}));
}

Json ChatWriter::chunk(Json choices) const {
  return {{"id", plan_.id},
          {"object", "chat.completion.chunk"},
          {"created", plan_.created},
          {"model", plan_.model},
          {"choices", std::move(choices)}};
}

void ChatWriter::add_usage(Json& chunk, int completion_tokens) const {
  if (!plan_.continuous_usage) return;
  chunk["usage"] = usage_json({static_cast<int>(plan_.prompt.size()), completion_tokens, 0});
}

}  // namespace quern::server
