// See media_loader.h.
#include "quern/server/media_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <future>
#include <thread>
#include <utility>

#include "quern/server/api_error.h"
#include "quern/server/media_file.h"
#include "quern/server/media_http.h"
#include "quern/server/media_url.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

constexpr std::size_t kBlockingThreads = 4;
constexpr std::size_t kNameThreads = 4;
constexpr std::chrono::milliseconds kWakeInterval{20};

MediaHttpOptions http_options(const MediaOptions& options) {
  return {.allowed_domains = options.allowed_media_domains,
          .max_bytes = options.max_item_bytes,
          .max_redirects = options.max_redirects,
          .timeout = options.fetch_timeout,
          .ca_file = options.ca_file,
          .resolve = options.resolve};
}

// The URLs of one request. Lives on the socket thread.
struct Batch {
  std::vector<std::string> urls;
  MediaLoader::Done done;
  std::vector<Media> media;
  std::size_t next = 0;
  std::size_t bytes = 0;
  int workers = 0;
  std::deque<asio::cancellation_signal> signals;  // of the workers
  std::exception_ptr error;
  std::size_t failed_index = 0;
};

}  // namespace

// Everything that stop() takes down.
struct MediaLoader::Runtime {
  Runtime(const MediaOptions& media_options, std::shared_ptr<MemoryBudget> memory_budget)
      : options(media_options),
        budget(std::move(memory_budget)),
        folder(options.allowed_local_media_path),
        blocking(kBlockingThreads),
        names(kNameThreads),
        http(http_options(options), names.get_executor()),
        thread([this] { context.run(); }) {}

  // Look-ups and files first: they post to the context.
  ~Runtime() {
    blocking.stop();
    names.stop();
    blocking.join();
    names.join();
    context.stop();
    thread.join();
    waiting.clear();  // timers go before their context
  }

  std::shared_ptr<Batch> load(std::vector<std::string> urls, Done done) {
    auto batch = std::make_shared<Batch>();
    batch->urls = std::move(urls);
    batch->done = std::move(done);
    batch->media.resize(batch->urls.size());
    asio::post(context, [this, batch] { start(batch); });
    return batch;
  }

  // The workers find the error when what they wait for has ended.
  void cancel(const std::weak_ptr<Batch>& weak) {
    asio::post(context, [this, weak] {
      const auto batch = weak.lock();
      if (batch == nullptr) return;
      if (!batch->error)
        batch->error = std::make_exception_ptr(ApiError(499, "The client is gone."));
      wake(batch);
    });
  }

  // A signal is lost on an operation of several steps when one of them has just ended: Beast's then
  // begins the next. So it is sent until the workers have ended.
  void wake(const std::shared_ptr<Batch>& batch) {
    if (batch->workers == 0) return;
    for (asio::cancellation_signal& signal : batch->signals)
      signal.emit(asio::cancellation_type::terminal);
    const auto again = std::make_shared<asio::steady_timer>(context, kWakeInterval);
    again->async_wait([this, batch, again](boost::system::error_code error) {
      if (!error) wake(batch);
    });
  }

  void start(const std::shared_ptr<Batch>& batch) {
    const std::size_t workers =
        std::min(batch->urls.size(), static_cast<std::size_t>(options.max_fetches_a_request));
    if (workers == 0) return batch->done(nullptr, {});
    batch->workers = static_cast<int>(workers);
    for (std::size_t i = 0; i < workers; ++i) {
      // The handler keeps the batch, and so the signal, to the end of the coroutine.
      asio::co_spawn(context, work(batch),
                     asio::bind_cancellation_slot(batch->signals.emplace_back().slot(),
                                                  [batch](const std::exception_ptr&) {}));
    }
  }

  // Takes URLs of the batch until none is left or one has failed; the last worker reports.
  asio::awaitable<void> work(std::shared_ptr<Batch> batch) {
    while (batch->next < batch->urls.size() && !batch->error) {
      const std::size_t index = batch->next++;
      try {
        std::string url = std::move(batch->urls[index]);
        Media media;
        MemoryBudget::Reservation reservation(budget);
        media.bytes = co_await bytes_of(std::move(url), reservation);
        take(*batch, media, reservation);
        batch->media[index] = std::move(media);
      } catch (const ApiError& error) {
        // A copy: Asio keeps the original in its threads, beyond the receiver's use of it.
        fail(*batch, index, std::make_exception_ptr(error));
      } catch (...) {
        fail(*batch, index, std::current_exception());
      }
    }
    if (--batch->workers > 0) co_return;
    if (batch->error) batch->media.clear();
    // The receiver's from here on: it may end the error in its own thread.
    batch->done(std::exchange(batch->error, nullptr), std::move(batch->media));
  }

  static void fail(Batch& batch, std::size_t index, std::exception_ptr error) {
    if (batch.error && index >= batch.failed_index) return;
    batch.error = std::move(error);
    batch.failed_index = index;
  }

  void take(Batch& batch, Media& media, MemoryBudget::Reservation& reservation) {
    batch.bytes += media.bytes.size();
    if (batch.bytes > options.max_request_bytes) {
      throw ApiError(400, fmt::format("The media of a request may have at most {} bytes together.",
                                      options.max_request_bytes));
    }
    media.share = reservation.keep(media.bytes.size());
    if (media.share == nullptr) refuse();
  }

  [[noreturn]] static void refuse() {
    throw ApiError(429, "The server holds too much media already. Please try again later.");
  }

  // What it reads is reserved first.
  asio::awaitable<std::string> bytes_of(std::string url, MemoryBudget::Reservation& reservation) {
    const auto reserve = [&reservation](std::size_t bytes) {
      if (!reservation.take(bytes)) refuse();
    };
    const MediaScheme scheme = media_scheme(url);
    if (scheme != MediaScheme::kHttp) {
      std::function<std::string()> job = [this, scheme, reserve, url = std::move(url)] {
        if (scheme == MediaScheme::kFile) return folder.read(url, options.max_item_bytes, reserve);
        const std::size_t text = url.size() - std::min(url.find(','), url.size());
        reserve(std::min(text / 4 * 3, options.max_item_bytes));  // of base64
        return data(url);
      };
      co_return co_await on_blocking(std::move(job));
    }
    co_await acquire_slot();
    // A guard, not a try: the coroutine may also end by being destroyed.
    const std::shared_ptr<void> slot(nullptr, [this](void*) { release_slot(); });
    co_return co_await http.fetch(std::move(url), reserve);
  }

  std::string data(const std::string& url) const {
    std::string bytes = decode_data_url(url);
    if (bytes.size() > options.max_item_bytes) {
      throw ApiError(400,
                     fmt::format("The data URL holds more than {} bytes.", options.max_item_bytes));
    }
    return bytes;
  }

  asio::awaitable<std::string> on_blocking(std::function<std::string()> job) {
    auto run = [](std::function<std::string()> body) -> asio::awaitable<std::string> {
      co_return body();
    };
    // What runs there ends by itself: it is not cancelled from another thread.
    co_return co_await asio::co_spawn(
        blocking, run(std::move(job)),
        asio::bind_cancellation_slot(asio::cancellation_slot(), asio::use_awaitable));
  }

  // First come, first served.
  asio::awaitable<void> acquire_slot() {
    if (fetches < options.max_fetches) {
      ++fetches;
      co_return;
    }
    const auto turn = std::make_shared<asio::steady_timer>(context);
    turn->expires_at(asio::steady_timer::time_point::max());
    waiting.push_back(turn);
    boost::system::error_code woken;
    co_await turn->async_wait(asio::redirect_error(asio::use_awaitable, woken));
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() == asio::cancellation_type::none) co_return;
    // Woken by the end of the batch; perhaps the slot came at the same time.
    if (std::erase(waiting, turn) == 0) release_slot();
    throw ApiError(499, "The client is gone.");
  }

  // Hands the slot to who waits longest.
  void release_slot() {
    if (waiting.empty()) {
      --fetches;
      return;
    }
    waiting.front()->cancel();
    waiting.pop_front();
  }

  const MediaOptions options;
  const std::shared_ptr<MemoryBudget> budget;
  const MediaFolder folder;
  // Socket thread only.
  int fetches = 0;
  std::deque<std::shared_ptr<asio::steady_timer>> waiting;

  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard{context.get_executor()};
  asio::thread_pool blocking;
  asio::thread_pool names;
  MediaHttp http;
  std::thread thread;
};

MediaLoader::MediaLoader(const MediaOptions& options, std::shared_ptr<MemoryBudget> budget)
    : runtime_(std::make_unique<Runtime>(options, std::move(budget))) {}

MediaLoader::~MediaLoader() = default;

void MediaLoader::stop() { runtime_.reset(); }

MediaLoader::Cancel MediaLoader::load(std::vector<std::string> urls, Done done) {
  if (runtime_ == nullptr) throw ApiError(503, "The server is shutting down.");
  const std::weak_ptr<Batch> batch = runtime_->load(std::move(urls), std::move(done));
  return [runtime = std::weak_ptr(runtime_), batch] {
    if (const auto running = runtime.lock()) running->cancel(batch);
  };
}

std::vector<Media> MediaLoader::load(std::vector<std::string> urls) {
  struct Result {
    std::exception_ptr error;
    std::vector<Media> media;
  };
  const auto promise = std::make_shared<std::promise<Result>>();
  load(std::move(urls), [promise](std::exception_ptr error, std::vector<Media> media) {
    promise->set_value({std::move(error), std::move(media)});
  });
  Result result = promise->get_future().get();
  if (result.error) std::rethrow_exception(std::move(result.error));
  return std::move(result.media);
}

}  // namespace quern::server
