// What the families of routes share: the table's row, the state behind the API, the forms of plain
// answers. Must never block the server's thread: work that takes time goes through on_pool().
// Proved by tests/server/api_test.cc.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/api.h"
#include "quern/server/api_error.h"
#include "quern/server/metrics.h"
#include "quern/server/response_store.h"

namespace quern::server {

// State of the API that every route may use, on the server's thread.
struct ApiContext {
  ApiContext(ChatService& chat_service, ApiOptions api_options);

  // Runs `work` on the pool; the coroutine goes on where it was. `work` must not refer to anything
  // that goes before the context does, but for what the waiting coroutine holds.
  template <typename Work, typename Result = std::invoke_result_t<Work>>
  boost::asio::awaitable<Result> on_pool(Work work) {
    return on_pool(pool, std::move(work));
  }

  // The same for work that decodes pictures, which may take long.
  template <typename Work, typename Result = std::invoke_result_t<Work>>
  boost::asio::awaitable<Result> on_image_pool(Work work) {
    return on_pool(image_pool, std::move(work));
  }

  // The same for forms of answers that have to be compiled, which may take seconds.
  template <typename Work, typename Result = std::invoke_result_t<Work>>
  boost::asio::awaitable<Result> on_grammar_pool(Work work) {
    return on_pool(grammar_pool, std::move(work));
  }

  ChatService& service;
  ApiOptions options;
  std::shared_ptr<Metrics> metrics;
  ResponseStore responses;
  std::int64_t created;  // Unix time of the start
  // Last: joined before what their work uses goes away.
  boost::asio::thread_pool pool;
  boost::asio::thread_pool image_pool;
  boost::asio::thread_pool grammar_pool{1};

 private:
  template <typename Work, typename Result = std::invoke_result_t<Work>>
  static boost::asio::awaitable<Result> on_pool(boost::asio::thread_pool& where, Work work) {
    auto run = [](Work job) -> boost::asio::awaitable<Result> { co_return job(); };
    co_return co_await boost::asio::co_spawn(where, run(std::move(work)),
                                             boost::asio::use_awaitable);
  }
};

// Answers one request. An ApiError that it throws before it has answered becomes the error's body.
using RouteHandler = boost::asio::awaitable<void> (*)(ApiContext&, HttpExchange&);

struct Route {
  std::string_view path;  // "{id}" stands for one segment
  std::vector<std::string_view> methods;
  RouteHandler handler;
  // For /openapi.json: the schema of a POST's body, and the media types of answers.
  Json (*schema)() = nullptr;
  std::vector<std::string_view> media = {"application/json"};
};

// One function a family, each in a file of its own name.
std::vector<Route> system_routes();      // health, ping, version, load, metrics, models
std::vector<Route> chat_routes();        // /v1/chat/completions
std::vector<Route> completion_routes();  // /v1/completions
std::vector<Route> tokenize_routes();    // /tokenize, /detokenize, /tokenizer_info
std::vector<Route> responses_routes();   // /v1/responses, /v1/responses/{id}, .../cancel
std::vector<Route> messages_routes();    // /v1/messages, /v1/messages/count_tokens

HttpResponse json_response(int status, const Json& json);
HttpResponse error_response(const ApiError& error);
HttpResponse event_stream_head();

// Throws ApiError unless the body is declared as JSON.
void check_content_type(const HttpRequest& request);

}  // namespace quern::server
