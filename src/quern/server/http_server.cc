// See http_server.h.
#include "quern/server/http_server.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <unordered_map>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/server/http_session.h"
#include "quern/server/tls_context.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Local = asio::local::stream_protocol;
using boost::system::error_code;

constexpr int kBacklog = 1024;

// A socket file that nobody listens on is left over from a killed process.
void remove_stale_socket(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return;
  if (!S_ISSOCK(info.st_mode)) throw Error("--uds {}: the path exists and is not a socket", path);
  asio::io_context context;
  Local::socket probe(context);
  error_code error;
  probe.connect(Local::endpoint(path), error);
  if (!error) throw Error("--uds {}: another process listens there", path);
  ::unlink(path.c_str());
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
}

std::string_view HttpRequest::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) return value;
  }
  return {};
}

struct HttpServer::Impl : std::enable_shared_from_this<Impl> {
  Impl(HttpOptions http_options, HttpHandler http_handler)
      : options(std::move(http_options)),
        handler(std::move(http_handler)),
        tls(make_tls_context(options.tls)),
        tcp_acceptor(context),
        local_acceptor(context),
        signals(context),
        slot_free(context),
        drain_deadline(context) {}

  void listen() {
    if (!options.uds.empty()) {
      remove_stale_socket(options.uds);
      open_at(local_acceptor, Local::endpoint(options.uds), "unix:" + options.uds);
      return;
    }
    tcp::resolver resolver(context);
    error_code error;
    const auto found =
        resolver.resolve(options.host, std::to_string(options.port),
                         tcp::resolver::passive | tcp::resolver::numeric_service, error);
    if (error || found.empty()) {
      throw Error("--host {}: {}", options.host, error ? error.message() : "no such address");
    }
    open_at(tcp_acceptor, found.begin()->endpoint(),
            fmt::format("{}:{}", options.host, options.port));
  }

  template <typename Acceptor, typename Endpoint>
  void open_at(Acceptor& acceptor, const Endpoint& endpoint, const std::string& name) {
    error_code error;
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(kBacklog, error);
    if (error) throw Error("cannot listen on {}: {}", name, error.message());
  }

  // A failed accept (out of descriptors, say) is tried again a little later.
  template <typename Acceptor>
  asio::awaitable<void> accept_all(Acceptor& acceptor) {
    while (!stopping) {
      while (!stopping && static_cast<int>(sessions.size()) >= options.max_connections) {
        error_code woken;
        slot_free.expires_at(asio::steady_timer::time_point::max());
        co_await slot_free.async_wait(asio::redirect_error(asio::use_awaitable, woken));
      }
      error_code error;
      typename Acceptor::protocol_type::socket socket =
          co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (stopping) co_return;
      if (!error) {
        start_session(std::move(socket));
        continue;
      }
      spdlog::warn("accept: {}", error.message());
      asio::steady_timer pause(context, std::chrono::milliseconds(100));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
    }
  }

  template <typename Socket>
  void start_session(Socket socket) {
    std::string client = "unix";
    if constexpr (std::is_same_v<Socket, tcp::socket>) {
      error_code ignored;
      const auto peer = socket.remote_endpoint(ignored);
      client = fmt::format("{}:{}", peer.address().to_string(), peer.port());
      socket.set_option(tcp::no_delay(true), ignored);
    }
    HttpSession::Socket generic(std::move(socket));
    const auto session =
        HttpSession::start(std::move(generic), std::move(client), options, handler, tls.get(),
                           [this](HttpSession* closed) { end_session(closed); });
    sessions.emplace(session.get(), session);
  }

  void end_session(HttpSession* session) {
    sessions.erase(session);
    slot_free.cancel();
    if (stopping && sessions.empty()) context.stop();
  }

  void begin_stop() {
    if (stopping) return abort_sessions();
    stopping = true;
    if (on_stop) on_stop();
    error_code ignored;
    tcp_acceptor.close(ignored);
    local_acceptor.close(ignored);
    slot_free.cancel();
    drain_deadline.expires_after(options.drain_timeout);
    drain_deadline.async_wait([this](error_code error) {
      if (!error) abort_sessions();
    });
    // A session that closes at once still reports its end later, so the map does not change here.
    for (const auto& [key, session] : sessions) session->drain();
    if (sessions.empty()) context.stop();
  }

  void abort_sessions() {
    for (const auto& [key, session] : sessions) session->abort();
    // What a handler still waits for does not hold the program back any longer.
    drain_deadline.expires_after(std::chrono::seconds(2));
    drain_deadline.async_wait([this](error_code error) {
      if (!error) context.stop();
    });
  }

  void wait_for_signal() {
    signals.async_wait([this](error_code error, int signal) {
      if (error) return;
      spdlog::info("{}: {}", signal == SIGINT ? "SIGINT" : "SIGTERM",
                   stopping ? "ending now" : "finishing running requests");
      begin_stop();
      wait_for_signal();
    });
  }

  HttpOptions options;
  HttpHandler handler;
  std::unique_ptr<asio::ssl::context> tls;  // null: plain text
  std::function<void()> on_stop;
  asio::io_context context{1};
  tcp::acceptor tcp_acceptor;
  Local::acceptor local_acceptor;
  asio::signal_set signals;
  asio::steady_timer slot_free;
  asio::steady_timer drain_deadline;
  std::unordered_map<HttpSession*, std::shared_ptr<HttpSession>> sessions;
  bool stopping = false;
};

HttpServer::HttpServer(HttpOptions options, HttpHandler handler)
    : impl_(std::make_shared<Impl>(std::move(options), std::move(handler))) {
  impl_->listen();
}

HttpServer::~HttpServer() {
  if (!impl_->options.uds.empty()) ::unlink(impl_->options.uds.c_str());
}

std::string HttpServer::address() const {
  if (!impl_->options.uds.empty()) return "unix:" + impl_->options.uds;
  const auto endpoint = impl_->tcp_acceptor.local_endpoint();
  const auto address = endpoint.address();
  const std::string host = address.is_unspecified() ? "127.0.0.1" : address.to_string();
  const bool brackets = address.is_v6() && !address.is_unspecified();
  return fmt::format("{}://{}{}{}:{}", impl_->tls ? "https" : "http", brackets ? "[" : "", host,
                     brackets ? "]" : "", endpoint.port());
}

int HttpServer::port() const {
  return impl_->options.uds.empty() ? impl_->tcp_acceptor.local_endpoint().port() : 0;
}

boost::asio::any_io_executor HttpServer::executor() { return impl_->context.get_executor(); }

void HttpServer::run(bool handle_signals, std::function<void()> on_stop) {
  impl_->on_stop = std::move(on_stop);
  if (handle_signals) {
    impl_->signals.add(SIGTERM);
    impl_->signals.add(SIGINT);
    impl_->wait_for_signal();
  }
  if (impl_->options.uds.empty()) {
    asio::co_spawn(impl_->context, impl_->accept_all(impl_->tcp_acceptor), asio::detached);
  } else {
    asio::co_spawn(impl_->context, impl_->accept_all(impl_->local_acceptor), asio::detached);
  }
  impl_->context.run();
}

void HttpServer::stop() {
  asio::post(impl_->context, [impl = impl_] { impl->begin_stop(); });
}

}  // namespace quern::server
