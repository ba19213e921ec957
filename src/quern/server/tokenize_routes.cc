// POST /tokenize, /detokenize, GET /tokenizer_info: text or messages to ids, ids to text.
// Must never start a generation. Proved by tests/server/tokenize_test.cc.
#include <fmt/format.h>

#include <utility>

#include "quern/base/error.h"
#include "quern/server/chat_preparation.h"
#include "quern/server/field_reader.h"
#include "quern/server/openapi.h"
#include "quern/server/routes.h"
#include "quern/server/sampling_plan.h"
#include "quern/server/sampling_request.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

struct TokenizeRequest {
  SamplingRequest common;  // the model's name
  std::string prompt;
  bool has_messages = false;
  bool return_token_strs = false;
};

TokenizeRequest parse_tokenize_request(std::string_view text) {
  const Json body = parse_body(text);
  TokenizeRequest request;
  FieldReader reader(body, "'body'");
  reader.read("model", request.common.model);
  reader.read("return_token_strs", request.return_token_strs);
  request.has_messages = body.contains("messages");
  if (!request.has_messages) {
    reader.require("prompt");
    reader.read("prompt", request.prompt);
  }
  reader.finish();
  return request;
}

Json tokens_json(const TokenizeRequest& request, const std::vector<std::int32_t>& tokens,
                 const ChatService& service) {
  Json strings = nullptr;
  if (request.return_token_strs) {
    strings = Json::array();
    for (const std::int32_t id : tokens) {
      strings.push_back(service.tokenizer().decode(std::span(&id, 1), false));
    }
  }
  return {{"count", tokens.size()},
          {"max_model_len", service.options().max_model_len},
          {"tokens", tokens},
          {"token_strs", std::move(strings)}};
}

asio::awaitable<void> tokenize(ApiContext& api, HttpExchange& exchange) {
  check_content_type(exchange.request());
  const std::string& body = exchange.request().body;
  const TokenizeRequest request =
      co_await api.on_pool([&body] { return parse_tokenize_request(body); });
  api.service.check_model(request.common);
  HttpResponse response;
  if (request.has_messages) {
    const ChatPlan plan =
        co_await prepare_chat(api, exchange, [&body] { return parse_chat_request(body); });
    response = json_response(200, tokens_json(request, plan.prompt, api.service));
  } else {
    response = co_await api.on_pool([&] {
      if (request.prompt.size() > kMaxTextBytes) {
        throw ApiError(400,
                       fmt::format("`prompt` can have at most {} bytes here, got {}.",
                                   kMaxTextBytes, request.prompt.size()),
                       "prompt");
      }
      std::vector<std::int32_t> tokens;
      try {
        tokens = api.service.tokenizer().encode(request.prompt);
      } catch (const Error& error) {
        throw ApiError(400, error.what(), "prompt");
      }
      return json_response(200, tokens_json(request, tokens, api.service));
    });
  }
  co_await exchange.respond(std::move(response));
}

HttpResponse detokenized(std::string_view text, const ChatService& service) {
  const Json body = parse_body(text);
  SamplingRequest common;
  std::vector<std::int64_t> tokens;
  FieldReader reader(body, "'body'");
  reader.read("model", common.model);
  reader.require("tokens");
  reader.read("tokens", tokens);
  reader.finish();
  service.check_model(common);
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : tokens) {
    if (id < 0 || id >= service.options().vocab_size) {
      throw ApiError(400, fmt::format("Token id {} is out of vocabulary", id), "tokens");
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return json_response(200, {{"prompt", service.tokenizer().decode(ids, false)}});
}

asio::awaitable<void> detokenize(ApiContext& api, HttpExchange& exchange) {
  check_content_type(exchange.request());
  HttpResponse response = co_await api.on_pool(
      [&api, &body = exchange.request().body] { return detokenized(body, api.service); });
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> tokenizer_info(ApiContext& api, HttpExchange& exchange) {
  HttpResponse response = json_response(200, api.options.tokenizer_info);
  co_await exchange.respond(std::move(response));
}

}  // namespace

std::vector<Route> tokenize_routes() {
  return {{"/tokenize", {"POST"}, tokenize, tokenize_schema},
          {"/detokenize", {"POST"}, detokenize, detokenize_schema},
          {"/tokenizer_info", {"GET"}, tokenizer_info}};
}

}  // namespace quern::server
