// POST /v1/responses (plain and streamed), GET /v1/responses/{id}, POST .../{id}/cancel.
// Must never store what the operator has not enabled or the client has declined.
// Proved by tests/server/responses_test.cc.
#include <fmt/format.h>

#include <boost/asio/this_coro.hpp>
#include <utility>

#include "quern/server/chat_preparation.h"
#include "quern/server/openapi.h"
#include "quern/server/responses_request.h"
#include "quern/server/responses_response.h"
#include "quern/server/sampling_plan.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

void store(ApiContext& api, const ResponsesRequest& request, const Json& response,
           const ChatChoice& choice) {
  if (!request.store || !api.options.store_responses) return;
  Json messages = request.chat["messages"];
  // Instructions belong to one request only.
  if (request.body.contains("instructions") && !messages.empty() &&
      messages.front()["role"] == "system") {
    messages.erase(messages.begin());
  }
  messages.push_back(assistant_message(choice));
  const std::size_t bytes = response.dump().size() + messages.dump().size();
  api.responses.add(response["id"].get<std::string>(), response, std::move(messages), bytes);
}

asio::awaitable<void> create(ApiContext& api, HttpExchange& exchange) {
  check_content_type(exchange.request());
  ResponsesRequest request;
  ChatPlan plan =
      co_await prepare_chat(api, exchange, [&api, &request, &body = exchange.request().body] {
        request = parse_responses_request(
            body, [&api](const std::string& id) { return api.responses.messages(id); });
        return read_chat_request(request.chat);
      });
  plan.id = "resp_" + random_id();
  RunningAnswer running(api, exchange, plan, co_await asio::this_coro::executor);
  if (plan.stream) {
    ResponseEvents events(plan, request);
    co_await stream_answer(exchange, running, events);
    if (!events.response().is_null()) store(api, request, events.response(), events.choice());
    co_return;
  }
  const ChatCompletion completion = co_await complete_answer(running);
  const ChatChoice& choice = completion.choices.at(0);
  const Json response = response_json(plan, request, response_status(choice.finish_reason),
                                      response_items(choice), response_usage(completion.usage));
  store(api, request, response, choice);
  HttpResponse answer = json_response(200, response);
  co_await exchange.respond(std::move(answer));
}

std::string id_of(const HttpRequest& request) {
  constexpr std::string_view kPrefix = "/v1/responses/";  // perhaps behind --root-path
  const std::string rest = request.path.substr(request.path.find(kPrefix) + kPrefix.size());
  return rest.substr(0, rest.find('/'));
}

Json find(const ApiContext& api, const HttpRequest& request) {
  Json response = api.responses.response(id_of(request));
  if (response.is_null()) {
    throw ApiError(404, fmt::format("Response with id '{}' not found.", id_of(request)),
                   "response_id");
  }
  return response;
}

asio::awaitable<void> retrieve(ApiContext& api, HttpExchange& exchange) {
  HttpResponse response = json_response(200, find(api, exchange.request()));
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> cancel(ApiContext& api, HttpExchange& exchange) {
  find(api, exchange.request());
  throw ApiError(400, "Cannot cancel a synchronous response.", "response_id");
  co_return;
}

}  // namespace

std::vector<Route> responses_routes() {
  return {{"/v1/responses", {"POST"}, create, responses_schema, kMaybeStreamed},
          {"/v1/responses/{id}", {"GET"}, retrieve},
          {"/v1/responses/{id}/cancel", {"POST"}, cancel}};
}

}  // namespace quern::server
