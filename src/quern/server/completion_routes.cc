// POST /v1/completions, plain and streamed.
// Must never send a status line before the engine's first output: an early failure is still a plain
// HTTP error. Proved by tests/server/completion_test.cc.
#include <algorithm>
#include <boost/asio/this_coro.hpp>
#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/chat_preparation.h"
#include "quern/server/completion_request.h"
#include "quern/server/completion_response.h"
#include "quern/server/front.h"
#include "quern/server/openapi.h"
#include "quern/server/running_generations.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

// A step makes a few tokens; a prompt's tokens may be a million, with twenty alternatives each.
constexpr std::size_t kManyTokens = 64;

bool is_long(const Mailbox::Batch& batch) {
  return std::any_of(batch.begin(), batch.end(), [](const auto& entry) {
    return entry.second.prompt_logprobs.size() + entry.second.logprobs.size() > kManyTokens;
  });
}

// Gives the batch to `take`, on the pool when that takes time.
template <typename Take>
asio::awaitable<void> for_batch(ApiContext& api, Mailbox::Batch batch, Take take) {
  const auto take_all = [&] {
    for (auto& [choice, output] : batch) take(choice, std::move(output));
  };
  if (is_long(batch)) {
    co_await api.on_pool(take_all);
  } else {
    take_all();
  }
}

asio::awaitable<void> answer_whole(ApiContext& api, HttpExchange& exchange,
                                   RunningGenerations& running, CompletionWriter& writer) {
  while (!running.finished()) {
    Mailbox::Batch batch = co_await running.next();
    co_await for_batch(api, std::move(batch), [&writer](int choice, engine::Output output) {
      writer.feed(choice, std::move(output));
    });
  }
  HttpResponse response;
  response.body = co_await api.on_pool([&writer] { return writer.body(); });
  co_await exchange.respond(std::move(response));
}

// Failures after the status line become an event.
asio::awaitable<void> answer_stream(ApiContext& api, HttpExchange& exchange,
                                    const CompletionPlan& plan, RunningGenerations& running,
                                    CompletionWriter& writer) {
  bool begun = false;
  bool failed = false;
  while (!running.finished() && !failed) {
    std::string piece;
    try {
      Mailbox::Batch batch = co_await running.next();
      co_await for_batch(api, std::move(batch), [&](int choice, engine::Output output) {
        writer.feed(choice, std::move(output));
        piece += writer.event(choice);
      });
    } catch (const ApiError& error) {
      if (!begun) throw;
      piece += sse_event(error.body());
      failed = true;
    }
    if (!std::exchange(begun, true)) co_await exchange.begin_stream(event_stream_head());
    const bool last = running.finished() || failed;
    if (last && !failed && plan.first().include_usage) piece += writer.usage_event();
    if (last) piece += kDoneEvent;
    co_await exchange.write(std::move(piece));
  }
  co_await exchange.end_stream();
}

asio::awaitable<void> completions(ApiContext& api, HttpExchange& exchange) {
  check_content_type(exchange.request());
  CompletionPlan plan = co_await api.on_pool([&api, &exchange] {
    CompletionRequest request = parse_completion_request(exchange.request().body);
    if (std::string id = request_id_header(exchange.request()); !id.empty()) {
      request.request_id = std::move(id);
    }
    api.service.check_model(request);
    if (api.options.force_include_usage) request.include_usage = true;
    CompletionPlan made =
        plan_completion(request, api.service.options(), api.service.options().model_names.front(),
                        api.service.tokenizer());
    made.prompts.front().form = request.structured_output;
    made.prompts.front().form_field = "structured_outputs";
    return made;
  });
  exchange.release_body();
  co_await prepare_grammar(api, plan.prompts.front());
  for (GenerationPlan& prompt : plan.prompts) prompt.grammar = plan.prompts.front().grammar;
  RunningGenerations running(api, exchange, plan.prompts, co_await asio::this_coro::executor);
  CompletionWriter writer(plan, api.service.tokenizer(), api.options.writer.prompt_tokens_details);
  if (plan.first().stream) {
    co_await answer_stream(api, exchange, plan, running, writer);
  } else {
    co_await answer_whole(api, exchange, running, writer);
  }
}

}  // namespace

std::vector<Route> completion_routes() {
  return {{"/v1/completions", {"POST"}, completions, completion_schema, kMaybeStreamed}};
}

}  // namespace quern::server
