// See front.h.
#include "quern/server/front.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "quern/base/log.h"
#include "quern/server/sampling_plan.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
using Headers = std::vector<std::pair<std::string, std::string>>;

constexpr std::size_t kMaxRequestId = 256;
constexpr std::string_view kAllMethods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";

bool holds(const std::vector<std::string>& list, std::string_view item) {
  return std::any_of(list.begin(), list.end(),
                     [&](const std::string& one) { return one == "*" || one == item; });
}

std::string joined(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& item : list) text += (text.empty() ? "" : ", ") + item;
  return text;
}

// Passes everything on, adds headers, remembers what the log needs.
class FrontExchange final : public HttpExchange {
 public:
  FrontExchange(HttpExchange& inner, Headers headers)
      : inner_(inner), headers_(std::move(headers)) {}

  const HttpRequest& request() const override { return inner_.request(); }
  void release_body() override { inner_.release_body(); }
  bool answered() const override { return inner_.answered(); }
  asio::awaitable<void> respond(HttpResponse response) override {
    begin(response);
    bytes_ = response.body.size();
    return inner_.respond(std::move(response));
  }
  asio::awaitable<void> begin_stream(HttpResponse head) override {
    begin(head);
    return inner_.begin_stream(std::move(head));
  }
  asio::awaitable<void> write(std::string piece) override {
    bytes_ += piece.size();
    return inner_.write(std::move(piece));
  }
  asio::awaitable<void> end_stream() override { return inner_.end_stream(); }
  void watch(std::function<void()> on_disconnect) override {
    inner_.watch(std::move(on_disconnect));
  }

  int status() const { return status_; }  // 0: none was sent
  std::size_t bytes() const { return bytes_; }

 private:
  void begin(HttpResponse& response) {
    status_ = response.status;
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
  }

  HttpExchange& inner_;
  Headers headers_;
  int status_ = 0;
  std::size_t bytes_ = 0;
};

// A target may hold any byte above the blank: no line of the log is to be forged with one.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 256)) out += c > 0x20 && c < 0x7f ? c : '?';
  return out;
}

}  // namespace

std::string request_id_header(const HttpRequest& request) {
  const std::string_view id = request.header("x-request-id");
  const bool fits = id.size() <= kMaxRequestId &&
                    std::all_of(id.begin(), id.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  return fits ? std::string(id) : std::string();
}

Headers cors_headers(const CorsOptions& options, const HttpRequest& request) {
  const std::string origin(request.header("origin"));
  if (origin.empty() || !holds(options.origins, origin)) return {};
  const bool all = holds(options.origins, "");
  // With credentials a browser wants its own name, not the star.
  const bool named = !all || options.credentials;
  Headers headers{{"Access-Control-Allow-Origin", named ? origin : "*"}};
  if (options.credentials) headers.emplace_back("Access-Control-Allow-Credentials", "true");
  if (named) headers.emplace_back("Vary", "Origin");
  return headers;
}

HttpResponse cors_preflight(const CorsOptions& options, const HttpRequest& request) {
  HttpResponse response;
  response.content_type = "text/plain; charset=utf-8";
  response.headers = cors_headers(options, request);
  std::string refused;
  const auto check = [&](bool allowed, const char* what) {
    if (!allowed) refused += (refused.empty() ? "" : ", ") + std::string(what);
  };
  check(!response.headers.empty(), "origin");
  check(holds(options.methods, request.header("access-control-request-method")), "method");
  const std::string wanted(request.header("access-control-request-headers"));
  const bool any_header = holds(options.headers, "");
  for (std::size_t at = 0; !any_header && at < wanted.size();) {
    const std::size_t end = std::min(wanted.find(',', at), wanted.size());
    std::string name = lower_case(std::string_view(wanted).substr(at, end - at));
    std::erase(name, ' ');
    check(std::any_of(options.headers.begin(), options.headers.end(),
                      [&](const std::string& known) { return lower_case(known) == name; }),
          "headers");
    at = end + 1;
  }
  const bool all_methods = holds(options.methods, "");
  response.headers.emplace_back("Access-Control-Allow-Methods",
                                all_methods ? std::string(kAllMethods) : joined(options.methods));
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  if (!any_header) {
    response.headers.emplace_back("Access-Control-Allow-Headers", joined(options.headers));
  } else if (!wanted.empty()) {
    response.headers.emplace_back("Access-Control-Allow-Headers", wanted);
  }
  response.status = refused.empty() ? 200 : 400;
  response.body = refused.empty() ? "OK" : "Disallowed CORS " + refused;
  return response;
}

Front::Front(FrontOptions options, HttpHandler handler)
    : options_(std::move(options)), handler_(std::move(handler)) {}

asio::awaitable<void> Front::handle(HttpExchange& exchange) const {
  const HttpRequest& request = exchange.request();
  const auto start = std::chrono::steady_clock::now();
  if (request.method == "OPTIONS" && !request.header("origin").empty() &&
      !request.header("access-control-request-method").empty()) {
    HttpResponse response = cors_preflight(options_.cors, request);
    co_await exchange.respond(std::move(response));
    co_return;
  }
  Headers headers = cors_headers(options_.cors, request);
  if (options_.request_id_headers) {
    std::string id = request_id_header(request);
    headers.emplace_back("X-Request-Id", id.empty() ? random_id() : std::move(id));
  }
  FrontExchange wrapped(exchange, std::move(headers));
  const auto log = [&] {
    const bool quiet = std::find(options_.quiet_paths.begin(), options_.quiet_paths.end(),
                                 request.path) != options_.quiet_paths.end();
    if (!options_.access_log || quiet) return;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const std::string id = request_id_header(request);
    spdlog::info("access client={} method={} path={} status={} bytes={} seconds={:.3f}{}",
                 request.client, request.method, printable(request.path), wrapped.status(),
                 wrapped.bytes(), seconds.count(), id.empty() ? "" : " request_id=" + id);
  };
  try {
    co_await handler_(wrapped);
  } catch (...) {  // the client left, or it is the session's 500: either way the line is due
    log();
    throw;
  }
  log();
}

}  // namespace quern::server
