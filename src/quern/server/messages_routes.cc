// POST /v1/messages (plain and streamed) and /v1/messages/count_tokens.
// Must never answer an error in OpenAI's form: clients of this protocol read another one.
// Proved by tests/server/messages_test.cc.
#include <boost/asio/this_coro.hpp>
#include <boost/system/system_error.hpp>
#include <exception>
#include <utility>

#include "quern/base/log.h"
#include "quern/server/chat_preparation.h"
#include "quern/server/messages_request.h"
#include "quern/server/messages_response.h"
#include "quern/server/openapi.h"
#include "quern/server/sampling_plan.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

asio::awaitable<ChatPlan> prepare(ApiContext& api, HttpExchange& exchange, bool generates) {
  check_content_type(exchange.request());
  co_return co_await prepare_chat(api, exchange, [&body = exchange.request().body, generates] {
    return read_chat_request(chat_body_of_messages(body, generates));
  });
}

asio::awaitable<void> answer(ApiContext& api, HttpExchange& exchange) {
  ChatPlan plan = co_await prepare(api, exchange, true);
  plan.id = "msg_" + random_id();
  RunningAnswer running(api, exchange, plan, co_await asio::this_coro::executor);
  if (plan.stream) {
    MessageEvents events(plan);
    co_await stream_answer(exchange, running, events);
    co_return;
  }
  const ChatCompletion completion = co_await complete_answer(running);
  HttpResponse response = json_response(200, message_body(plan, completion));
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> count(ApiContext& api, HttpExchange& exchange) {
  const ChatPlan plan = co_await prepare(api, exchange, false);
  HttpResponse response = json_response(200, {{"input_tokens", plan.prompt.size()}});
  co_await exchange.respond(std::move(response));
}

// Errors in Anthropic's form.
template <asio::awaitable<void> (*kHandler)(ApiContext&, HttpExchange&)>
asio::awaitable<void> with_errors(ApiContext& api, HttpExchange& exchange) {
  HttpResponse failure;
  try {
    co_await kHandler(api, exchange);
    co_return;
  } catch (const ApiError& error) {
    failure = error_response(error);
    failure.body = dump(message_error(error));
  } catch (const boost::system::system_error&) {
    throw;  // the client is gone
  } catch (const std::exception& error) {
    if (exchange.answered()) throw;
    spdlog::error("request {} failed: {}", exchange.request().path, error.what());
    failure = json_response(500, message_error(ApiError(500, "Internal server error")));
  }
  co_await exchange.respond(std::move(failure));
}

}  // namespace

std::vector<Route> messages_routes() {
  return {{"/v1/messages", {"POST"}, with_errors<answer>, messages_schema, kMaybeStreamed},
          {"/v1/messages/count_tokens", {"POST"}, with_errors<count>, count_tokens_schema}};
}

}  // namespace quern::server
