// POST /v1/chat/completions, plain and streamed.
// Must never know how a chat request becomes a prompt. Proved by tests/server/api_test.cc.
#include <boost/asio/this_coro.hpp>
#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/answer_stream.h"
#include "quern/server/chat_preparation.h"
#include "quern/server/chat_request.h"
#include "quern/server/front.h"
#include "quern/server/openapi.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

class ChatEvents final : public AnswerEvents {
 public:
  ChatEvents(const ChatPlan& plan, const ChatWriter& writer) : plan_(plan), writer_(writer) {}

  std::string opening() override {
    std::string events;
    for (int choice = 0; choice < plan_.n; ++choice) events += writer_.role_event(choice);
    if (plan_.echo.empty()) return events;
    for (int choice = 0; choice < plan_.n; ++choice) {
      events += writer_.content_event(choice, plan_.echo);
    }
    return events;
  }
  std::string delta(const ChatDelta& delta) override { return writer_.delta_event(delta); }
  std::string closing(const Usage& usage) override {
    std::string events;
    if (plan_.include_usage) events = writer_.usage_event(usage);
    return events += kDoneEvent;
  }
  std::string failure(const ApiError& error) override {
    return sse_event(error.body()).append(kDoneEvent);
  }

 private:
  const ChatPlan& plan_;
  const ChatWriter& writer_;
};

asio::awaitable<void> chat(ApiContext& api, HttpExchange& exchange) {
  check_content_type(exchange.request());
  ChatPlan plan = co_await prepare_chat(
      api, exchange, [&body = exchange.request().body] { return parse_chat_request(body); });
  if (api.options.force_include_usage) plan.include_usage = true;
  if (const std::string id = request_id_header(exchange.request()); !id.empty()) {
    plan.id = "chatcmpl-" + id;
  }
  RunningAnswer running(api, exchange, plan, co_await asio::this_coro::executor);
  const ChatWriter writer(plan, api.service.tokenizer(), api.options.writer);
  if (plan.stream) {
    ChatEvents events(plan, writer);
    co_await stream_answer(exchange, running, events);
  } else {
    HttpResponse response;
    const ChatCompletion completion = co_await complete_answer(running);
    // The logprobs of a long prompt are megabytes of JSON.
    response.body =
        co_await api.on_pool([&writer, &completion] { return writer.body(completion); });
    co_await exchange.respond(std::move(response));
  }
}

}  // namespace

std::vector<Route> chat_routes() {
  return {{"/v1/chat/completions", {"POST"}, chat, chat_schema, kMaybeStreamed}};
}

}  // namespace quern::server
