// See chat_response.h. Layout: vLLM entrypoints/openai/chat_completion/protocol.py and serving.py.
#include "quern/server/chat_response.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

// JSON has no -inf; vLLM writes this instead.
constexpr float kLowestLogprob = -9999.0F;

Json text_or_null(const std::string& text) {
  Json json = nullptr;
  if (!text.empty()) json = text;
  return json;
}

Json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"completion_tokens", usage.completion_tokens}};
}

Json ids_or_null(bool wanted, const std::vector<std::int32_t>& ids) {
  Json json = nullptr;
  if (wanted) json = ids;
  return json;
}

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
    choices.push_back(
        {{"index", i},
         {"message", message_json(plan_, choice)},
         {"logprobs", plan_.logprobs ? logprobs_json(choice.logprobs) : Json(nullptr)},
         {"finish_reason", choice.finish_reason},
         {"stop_reason", choice.stop_reason},
         {"token_ids", ids_or_null(plan_.return_token_ids, choice.token_ids)}});
  }
  Json usage = usage_json(completion.usage);
  usage["prompt_tokens_details"] = nullptr;
  if (options_.prompt_tokens_details) {
    usage["prompt_tokens_details"] = {{"cached_tokens", completion.usage.cached_tokens}};
  }
  return dump({{"id", plan_.id},
               {"object", "chat.completion"},
               {"created", plan_.created},
               {"model", plan_.model},
               {"choices", std::move(choices)},
               {"service_tier", nullptr},
               {"system_fingerprint", nullptr},
               {"usage", std::move(usage)},
               {"prompt_logprobs", nullptr},
               {"prompt_token_ids", ids_or_null(plan_.return_token_ids, plan_.prompt)},
               {"kv_transfer_params", nullptr}});
}

std::string ChatWriter::role_event(int choice) const {
  Json json = first_chunk(choice, {{"role", plan_.role}, {"content", ""}});
  json["prompt_token_ids"] = ids_or_null(plan_.return_token_ids, plan_.prompt);
  add_usage(json, 0);
  return event(json);
}

std::string ChatWriter::content_event(int choice, const std::string& text) const {
  Json json = first_chunk(choice, {{"content", text}});
  add_usage(json, 0);
  return event(json);
}

std::string ChatWriter::delta_event(const ChatDelta& delta) const {
  Json choice = {{"index", delta.choice},
                 {"delta", delta_json(delta)},
                 {"logprobs", plan_.logprobs ? logprobs_json(delta.logprobs) : Json(nullptr)},
                 {"finish_reason", text_or_null(delta.finish_reason)}};
  if (!delta.finish_reason.empty()) choice["stop_reason"] = delta.stop_reason;
  choice["token_ids"] = ids_or_null(plan_.return_token_ids, delta.token_ids);
  Json json = chunk(Json::array({std::move(choice)}));
  add_usage(json, delta.completion_tokens);
  return event(json);
}

std::string ChatWriter::usage_event(const Usage& usage) const {
  Json json = chunk(Json::array());
  json["usage"] = usage_json(usage);
  if (options_.prompt_tokens_details) {
    json["usage"]["prompt_tokens_details"] = {{"cached_tokens", usage.cached_tokens}};
  }
  return event(json);
}

std::string ChatWriter::event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

std::string ChatWriter::done_event() { return "data: [DONE]\n\n"; }

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

Json ChatWriter::logprobs_json(const std::vector<engine::TokenLogprobs>& logprobs) const {
  Json content = Json::array();
  for (const engine::TokenLogprobs& entry : logprobs) {
    Json json = token_json(entry.chosen);
    Json top = Json::array();
    for (const engine::TokenLogprob& token : entry.top) top.push_back(token_json(token));
    json["top_logprobs"] = std::move(top);
    content.push_back(std::move(json));
  }
  return {{"content", std::move(content)}};
}

Json ChatWriter::token_json(const engine::TokenLogprob& token) const {
  const std::string text = plan_.tokens_as_ids
                               ? fmt::format("token_id:{}", token.token_id)
                               : tokenizer_.decode(std::span(&token.token_id, 1), false);
  // The bytes are the token's own, so that characters split over tokens can be put together.
  const std::string& raw = plan_.tokens_as_ids ? text : tokenizer_.token_bytes(token.token_id);
  Json bytes = Json::array();
  for (const char c : raw) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text},
          {"logprob", std::max(token.logprob, kLowestLogprob)},
          {"bytes", std::move(bytes)}};
}

}  // namespace quern::server
