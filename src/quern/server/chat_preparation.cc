// See chat_preparation.h.
#include "quern/server/chat_preparation.h"

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/server/media_loader.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

// MediaLoader::load() as an operation to wait for. It ends early when the client is gone.
asio::awaitable<std::vector<Media>> load(MediaLoader& loader, HttpExchange& exchange,
                                         std::vector<std::string> urls) {
  const auto start = [](auto handler, MediaLoader* from, HttpExchange* client,
                        std::vector<std::string> what) {
    const auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    const auto executor = asio::get_associated_executor(*shared);
    auto work = asio::make_work_guard(executor);
    client->watch(from->load(std::move(what), [shared, executor, work](std::exception_ptr error,
                                                                       std::vector<Media> media) {
      asio::post(executor, [shared, error, media = std::move(media)]() mutable {
        std::move (*shared)(error, std::move(media));
      });
    }));
  };
  co_return co_await asio::async_initiate<decltype(asio::use_awaitable),
                                          void(std::exception_ptr, std::vector<Media>)>(
      start, asio::use_awaitable, &loader, &exchange, std::move(urls));
}

struct Reading {
  ChatRequest request;
  std::vector<MediaItem> media;
  std::optional<ChatPlan> plan;  // when there are no media to wait for
};

}  // namespace

asio::awaitable<ChatPlan> prepare_chat(ApiContext& api, HttpExchange& exchange,
                                       std::function<ChatRequest()> read) {
  Reading reading = co_await api.on_pool([&api, &read] {
    Reading result;
    result.request = read();
    result.media = api.service.take_media(result.request);
    if (result.media.empty()) result.plan = api.service.plan(result.request);
    return result;
  });
  exchange.release_body();
  if (!reading.plan) {
    put_media(co_await load(*api.service.media(), exchange, take_urls(reading.media)),
              reading.media);
    reading.plan = co_await api.on_image_pool(
        [&api, &reading] { return api.service.plan(reading.request, std::move(reading.media)); });
  }
  co_await prepare_grammar(api, *reading.plan);
  co_return std::move(*reading.plan);
}

asio::awaitable<void> prepare_grammar(ApiContext& api, GenerationPlan& plan) {
  if (!plan.form) co_return;
  const bool known = co_await api.on_pool([&api, &plan] { return api.service.has_grammar(plan); });
  if (known) co_return;
  co_await api.on_grammar_pool([&api, &plan] { api.service.compile_grammar(plan); });
}

}  // namespace quern::server
