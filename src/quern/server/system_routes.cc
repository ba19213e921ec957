// GET /health, /ping, /version, /load, /metrics, /v1/models: what operators and clients ask about
// the server itself. Must never wait for the engine. Proved by tests/server/api_test.cc.
#include "quern/server/models.h"
#include "quern/server/routes.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

asio::awaitable<void> health(ApiContext& api, HttpExchange& exchange) {
  HttpResponse response;
  response.content_type.clear();
  response.status = api.service.generator().healthy() ? 200 : 503;
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> version(ApiContext& api, HttpExchange& exchange) {
  HttpResponse response = json_response(200, {{"version", api.options.version}});
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> load(ApiContext& api, HttpExchange& exchange) {
  HttpResponse response = json_response(200, {{"server_load", api.service.in_flight()}});
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> metrics(ApiContext& api, HttpExchange& exchange) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = api.metrics->text(api.service.generator().stats());
  co_await exchange.respond(std::move(response));
}

asio::awaitable<void> models(ApiContext& api, HttpExchange& exchange) {
  const ChatServiceOptions& chat = api.service.options();
  const ImageInputOptions* media = chat.images ? &chat.images->options() : nullptr;
  const ModelListing listing{
      .names = chat.model_names,
      .root = api.options.root,
      .fingerprint = api.options.fingerprint,
      .max_model_len = chat.max_model_len,
      .tools = chat.parse_tools,
      .reasoning = chat.parse_reasoning,
      .images = media != nullptr && media->max_images > 0,
      .videos = media != nullptr && media->max_videos > 0 && vision::video_supported(),
      .created = api.created};
  HttpResponse response = json_response(200, models_json(listing));
  co_await exchange.respond(std::move(response));
}

}  // namespace

std::vector<Route> system_routes() {
  return {
      {"/health", {"GET", "HEAD"}, health, nullptr, {}},
      {"/ping", {"GET", "POST", "HEAD"}, health, nullptr, {}},
      {"/version", {"GET"}, version},
      {"/load", {"GET"}, load},
      {"/metrics", {"GET"}, metrics, nullptr, {"text/plain"}},
      {"/v1/models", {"GET"}, models},
  };
}

}  // namespace quern::server
