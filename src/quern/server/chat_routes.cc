// POST /v1/chat/completions, plain and streamed.
// Must never send a status line before the engine's first output: an early failure is still a plain
// HTTP error. Proved by tests/server/api_test.cc.
#include <boost/asio/this_coro.hpp>
#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/chat_preparation.h"
#include "quern/server/chat_request.h"
#include "quern/server/running_generations.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

asio::awaitable<void> answer_whole(ApiContext& api, HttpExchange& exchange, const ChatPlan& plan,
                                   RunningAnswer& running) {
  ChatCompletion completion;
  while (!running.finished()) {
    for (const ChatDelta& delta : co_await running.next()) completion.add(delta);
  }
  completion.usage = running.answer().usage();
  completion.prompt_logprobs = running.answer().prompt_logprobs();
  HttpResponse response;
  response.body = ChatWriter(plan, api.service.tokenizer(), api.options.writer).body(completion);
  co_await exchange.respond(std::move(response));
}

std::string opening(const ChatPlan& plan, const ChatWriter& writer) {
  std::string events;
  for (int choice = 0; choice < plan.n; ++choice) events += writer.role_event(choice);
  if (plan.echo.empty()) return events;
  for (int choice = 0; choice < plan.n; ++choice) events += writer.content_event(choice, plan.echo);
  return events;
}

// Failures after the status line become an event.
asio::awaitable<void> answer_stream(ApiContext& api, HttpExchange& exchange, const ChatPlan& plan,
                                    RunningAnswer& running) {
  const ChatWriter writer(plan, api.service.tokenizer(), api.options.writer);
  bool begun = false;
  bool failed = false;
  while (!running.finished() && !failed) {
    std::string piece;
    try {
      for (const ChatDelta& delta : co_await running.next()) piece += writer.delta_event(delta);
    } catch (const ApiError& error) {
      if (!begun) throw;
      piece += sse_event(error.body());
      failed = true;
    }
    if (!begun) {
      co_await exchange.begin_stream(event_stream_head());
      piece.insert(0, opening(plan, writer));
      begun = true;
    }
    if (running.finished() && plan.include_usage) {
      piece += writer.usage_event(running.answer().usage());
    };
    if (running.finished() || failed) piece += kDoneEvent;
    co_await exchange.write(std::move(piece));
  }
  co_await exchange.end_stream();
}

asio::awaitable<void> chat(ApiContext& api, HttpExchange& exchange) {
  check_content_type(exchange.request());
  ChatPlan plan = co_await prepare_chat(
      api, [&body = exchange.request().body] { return parse_chat_request(body); });
  if (api.options.force_include_usage) plan.include_usage = true;
  RunningAnswer running(api, exchange, plan, co_await asio::this_coro::executor);
  if (plan.stream) {
    co_await answer_stream(api, exchange, plan, running);
  } else {
    co_await answer_whole(api, exchange, plan, running);
  }
}

}  // namespace

std::vector<Route> chat_routes() { return {{"/v1/chat/completions", {"POST"}, chat}}; }

}  // namespace quern::server
