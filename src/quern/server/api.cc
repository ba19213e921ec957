// See api.h.
#include "quern/server/api.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <chrono>
#include <functional>
#include <utility>

#include "quern/base/log.h"
#include "quern/server/api_error.h"
#include "quern/server/chat_request.h"
#include "quern/server/mailbox.h"
#include "quern/server/metrics.h"
#include "quern/server/models.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
}

// The time does not depend on where the two differ.
bool same_key(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

HttpResponse json_response(int status, const Json& json) {
  HttpResponse response;
  response.status = status;
  response.body = dump(json);
  return response;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response = json_response(error.status(), error.body());
  if (error.status() == 429) response.headers.emplace_back("Retry-After", "1");
  return response;
}

// Cancels the plan's generations when the coroutine ends before they do.
class CancelGuard {
 public:
  CancelGuard(ChatService& service, const ChatPlan& plan) : service_(service), plan_(plan) {}
  CancelGuard(const CancelGuard&) = delete;
  CancelGuard& operator=(const CancelGuard&) = delete;
  ~CancelGuard() {
    if (armed_) service_.cancel(plan_);
  }
  void release() { armed_ = false; }

 private:
  ChatService& service_;
  const ChatPlan& plan_;
  bool armed_ = true;
};

[[noreturn]] void throw_disconnected() {
  throw boost::system::system_error(asio::error::connection_reset);
}

}  // namespace

struct Api::Impl {
  using Route = asio::awaitable<void> (Impl::*)(HttpExchange&);
  struct Entry {
    std::string_view path;
    std::vector<std::string_view> methods;
    Route route;
  };

  Impl(ChatService& chat_service, ApiOptions api_options)
      : service(chat_service),
        options(std::move(api_options)),
        metrics(std::make_shared<Metrics>(service.options().model_names.front(),
                                          service.options().max_model_len)),
        created(std::chrono::duration_cast<std::chrono::seconds>(
                    std::chrono::system_clock::now().time_since_epoch())
                    .count()),
        pool(static_cast<std::size_t>(std::max(1, options.preparing_threads))) {}

  asio::awaitable<void> handle(HttpExchange& exchange) {
    const HttpRequest& request = exchange.request();
    const auto entry = std::find_if(routes.begin(), routes.end(),
                                    [&](const Entry& e) { return e.path == request.path; });
    HttpResponse refusal;
    if (!authorized(request)) {
      refusal = json_response(401, {{"error", "Unauthorized"}});
    } else if (entry == routes.end()) {
      refusal = json_response(404, {{"detail", "Not Found"}});
    } else if (std::find(entry->methods.begin(), entry->methods.end(), request.method) ==
               entry->methods.end()) {
      refusal = json_response(405, {{"detail", "Method Not Allowed"}});
      refusal.headers.emplace_back("Allow", std::string(entry->methods.front()));
    } else {
      co_await (this->*entry->route)(exchange);
      co_return;
    }
    co_await exchange.respond(std::move(refusal));
  }

  // Protected are the paths that vLLM protects.
  bool authorized(const HttpRequest& request) const {
    if (options.api_keys.empty() || !request.path.starts_with("/v1")) return true;
    std::string_view key = request.header("x-api-key");
    const std::string_view header = request.header("authorization");
    constexpr std::string_view kScheme = "bearer ";
    if (header.size() > kScheme.size() && lower(header.substr(0, kScheme.size())) == kScheme) {
      key = header.substr(kScheme.size());
    }
    return std::any_of(options.api_keys.begin(), options.api_keys.end(),
                       [&](const std::string& known) { return same_key(known, key); });
  }

  asio::awaitable<void> health(HttpExchange& exchange) {
    HttpResponse response;
    response.content_type.clear();
    response.status = service.generator().healthy() ? 200 : 503;
    co_await exchange.respond(std::move(response));
  }

  asio::awaitable<void> version(HttpExchange& exchange) {
    HttpResponse response = json_response(200, {{"version", options.version}});
    co_await exchange.respond(std::move(response));
  }

  asio::awaitable<void> load(HttpExchange& exchange) {
    HttpResponse response = json_response(200, {{"server_load", service.in_flight()}});
    co_await exchange.respond(std::move(response));
  }

  asio::awaitable<void> show_metrics(HttpExchange& exchange) {
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics->text(service.generator().stats());
    co_await exchange.respond(std::move(response));
  }

  asio::awaitable<void> models(HttpExchange& exchange) {
    const ChatServiceOptions& chat = service.options();
    const ModelListing listing{chat.model_names,
                               options.root,
                               options.fingerprint,
                               chat.max_model_len,
                               chat.parse_tools,
                               chat.parse_reasoning,
                               created};
    HttpResponse response = json_response(200, models_json(listing));
    co_await exchange.respond(std::move(response));
  }

  asio::awaitable<void> chat(HttpExchange& exchange) {
    HttpResponse failure;
    try {
      check_content_type(exchange.request());
      const std::string& body = exchange.request().body;
      std::function<ChatPlan()> prepare = [this, &body] {
        ChatPlan plan = service.plan(parse_chat_request(body));
        if (options.force_include_usage) plan.include_usage = true;
        return plan;
      };
      const ChatPlan plan = co_await on_pool(std::move(prepare));
      co_await answer(exchange, plan);
      co_return;
    } catch (const ApiError& error) {
      failure = error_response(error);
    }
    co_await exchange.respond(std::move(failure));
  }

  static void check_content_type(const HttpRequest& request) {
    std::string type = lower(request.header("content-type"));
    type = type.substr(0, type.find(';'));
    while (!type.empty() && type.back() == ' ') type.pop_back();
    if (type != "application/json") {
      throw ApiError(400, "Unsupported Media Type: Only 'application/json' is allowed", {},
                     "Bad Request");
    }
  }

  // Runs `work` on the pool; the coroutine goes on where it was.
  asio::awaitable<ChatPlan> on_pool(std::function<ChatPlan()> work) {
    auto run = [](std::function<ChatPlan()> job) -> asio::awaitable<ChatPlan> { co_return job(); };
    co_return co_await asio::co_spawn(pool, run(std::move(work)), asio::use_awaitable);
  }

  asio::awaitable<void> answer(HttpExchange& exchange, const ChatPlan& plan) {
    const auto executor = co_await asio::this_coro::executor;
    const auto mailbox = std::make_shared<Mailbox>(executor, plan.n);
    std::vector<Metrics::Generation> timers(
        static_cast<std::size_t>(plan.n),
        Metrics::Generation(*metrics, static_cast<int>(plan.prompt.size()),
                            plan.sampling.max_tokens));
    service.start(plan, [mailbox, timers = std::move(timers), keep = metrics](
                            int choice, engine::Output output) mutable {
      timers[static_cast<std::size_t>(choice)].output(output);
      mailbox->push(choice, std::move(output));
    });
    CancelGuard guard(service, plan);
    exchange.watch([mailbox] { mailbox->close(); });
    ChatAnswer answer(plan);
    if (plan.stream) {
      co_await stream(exchange, plan, *mailbox, answer);
    } else {
      co_await whole(exchange, plan, *mailbox, answer);
    }
    if (answer.finished()) guard.release();
  }

  asio::awaitable<void> whole(HttpExchange& exchange, const ChatPlan& plan, Mailbox& mailbox,
                              ChatAnswer& answer) {
    ChatCompletion completion;
    while (!answer.finished()) {
      Mailbox::Batch batch = co_await mailbox.receive();
      if (batch.empty()) throw_disconnected();
      for (auto& [choice, output] : batch) {
        const auto delta = answer.feed(choice, std::move(output));
        if (delta) completion.add(*delta);
      }
    }
    completion.usage = answer.usage();
    HttpResponse response;
    response.body = ChatWriter(plan, service.tokenizer(), options.writer).body(completion);
    co_await exchange.respond(std::move(response));
  }

  // The status line waits for the engine's first output, so that an early failure is still a plain
  // HTTP error; later ones become an event.
  asio::awaitable<void> stream(HttpExchange& exchange, const ChatPlan& plan, Mailbox& mailbox,
                               ChatAnswer& answer) {
    const ChatWriter writer(plan, service.tokenizer(), options.writer);
    bool begun = false;
    std::string piece;
    while (!answer.finished()) {
      Mailbox::Batch batch = co_await mailbox.receive();
      if (batch.empty()) throw_disconnected();
      bool failed = false;
      try {
        for (auto& [choice, output] : batch) {
          const auto delta = answer.feed(choice, std::move(output));
          if (delta) piece += writer.delta_event(*delta);
        }
      } catch (const ApiError& error) {
        if (!begun) throw;
        piece += ChatWriter::event(error.body());
        failed = true;
      }
      if (!begun) {
        HttpResponse head;
        head.content_type = "text/event-stream; charset=utf-8";
        head.headers = {{"Cache-Control", "no-cache"}};
        co_await exchange.begin_stream(std::move(head));
        piece.insert(0, opening(plan, writer));
        begun = true;
      }
      if (answer.finished() && !failed && plan.include_usage) {
        piece += writer.usage_event(answer.usage());
      }
      if (answer.finished() || failed) piece += ChatWriter::done_event();
      co_await exchange.write(std::exchange(piece, {}));
      if (failed) break;
    }
    co_await exchange.end_stream();
  }

  static std::string opening(const ChatPlan& plan, const ChatWriter& writer) {
    std::string events;
    for (int choice = 0; choice < plan.n; ++choice) events += writer.role_event(choice);
    if (plan.echo.empty()) return events;
    for (int choice = 0; choice < plan.n; ++choice)
      events += writer.content_event(choice, plan.echo);
    return events;
  }

  ChatService& service;
  ApiOptions options;
  std::shared_ptr<Metrics> metrics;
  std::int64_t created;
  const std::vector<Entry> routes{
      {"/health", {"GET", "HEAD"}, &Impl::health},
      {"/ping", {"GET", "POST", "HEAD"}, &Impl::health},
      {"/version", {"GET"}, &Impl::version},
      {"/load", {"GET"}, &Impl::load},
      {"/metrics", {"GET"}, &Impl::show_metrics},
      {"/v1/models", {"GET"}, &Impl::models},
      {"/v1/chat/completions", {"POST"}, &Impl::chat},
  };
  asio::thread_pool pool;  // last: joined before what its work uses goes away
};

Api::Api(ChatService& service, ApiOptions options)
    : impl_(std::make_unique<Impl>(service, std::move(options))) {}

Api::~Api() { impl_->pool.join(); }

asio::awaitable<void> Api::handle(HttpExchange& exchange) { return impl_->handle(exchange); }

}  // namespace quern::server
