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

// MediaLoader::load() as an operation to wait for.
asio::awaitable<std::vector<Media>> load(MediaLoader& loader, std::vector<std::string> urls) {
  const auto start = [](auto handler, MediaLoader* from, std::vector<std::string> what) {
    const auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    const auto executor = asio::get_associated_executor(*shared);
    auto work = asio::make_work_guard(executor);
    from->load(std::move(what),
               [shared, executor, work](std::exception_ptr error, std::vector<Media> media) {
                 asio::post(executor, [shared, error, media = std::move(media)]() mutable {
                   std::move (*shared)(error, std::move(media));
                 });
               });
  };
  co_return co_await asio::async_initiate<decltype(asio::use_awaitable),
                                          void(std::exception_ptr, std::vector<Media>)>(
      start, asio::use_awaitable, &loader, std::move(urls));
}

struct Reading {
  ChatRequest request;
  std::vector<std::string> urls;
  std::optional<ChatPlan> plan;  // when there are no media to wait for
};

}  // namespace

asio::awaitable<ChatPlan> prepare_chat(ApiContext& api, std::function<ChatRequest()> read) {
  Reading reading = co_await api.on_pool([&api, &read] {
    Reading result;
    result.request = read();
    result.urls = api.service.take_media_urls(result.request);
    if (result.urls.empty()) result.plan = api.service.plan(result.request);
    return result;
  });
  if (reading.plan) co_return std::move(*reading.plan);
  std::vector<Media> media = co_await load(*api.service.media(), std::move(reading.urls));
  co_return co_await api.on_image_pool(
      [&api, &reading, &media] { return api.service.plan(reading.request, std::move(media)); });
}

}  // namespace quern::server
