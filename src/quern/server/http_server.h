// An HTTP/1.1 server for a handful of routes: keep-alive, pipelining, streams, limits, time-outs,
// drain. Must never let one connection's speed or mistakes touch another, nor know what the routes
// mean. Proved by tests/server/http_server_test.cc.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quern::server {

// TLS when there is a certificate. Names and values are uvicorn's.
struct TlsOptions {
  std::string certfile;  // PEM, the chain of the server
  std::string keyfile;   // PEM; "" = in the certificate's file
  std::string ca_certs;  // PEM, of clients
  int cert_reqs = 0;     // clients' certificates: 0 none, 1 optional, 2 required
  std::string ciphers;   // OpenSSL's list; "" = the library's
};

struct HttpOptions {
  std::string host = "0.0.0.0";
  int port = 8000;  // 0 = any free one
  std::string uds;  // Unix socket instead of host and port
  TlsOptions tls;
  std::size_t max_header_bytes = 64 << 10;
  std::size_t max_body_bytes = 64 << 20;
  int max_connections = 1024;                      // more wait in the kernel's queue
  std::chrono::milliseconds idle_timeout{75'000};  // between requests of a connection
  std::chrono::milliseconds header_timeout{
      30'000};  // from a request's first byte to its header's end
  std::chrono::milliseconds body_timeout{120'000};  // for the whole body
  std::chrono::milliseconds write_timeout{60'000};  // of a reader that takes nothing
  std::chrono::milliseconds drain_timeout{30'000};  // for running requests after stop()
};

// ASCII only, as names of headers and schemes are.
std::string lower_case(std::string_view text);

struct HttpRequest {
  std::string client;  // "127.0.0.1:50000", or "unix"
  std::string method;
  std::string path;                                          // without the query
  std::string query;                                         // behind the '?'
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;

  // "" when absent; the first of several.
  std::string_view header(std::string_view lower_case_name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// One request and the way to answer it: respond() once, or begin_stream(), write()...,
// end_stream(). Used on the server's thread. The operations throw when the peer is gone; the
// handler lets that pass.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;
  // The body is not looked at any more: its memory need not wait for the answer.
  virtual void release_body() = 0;
  // Whether respond() or begin_stream() was called.
  virtual bool answered() const = 0;
  virtual boost::asio::awaitable<void> respond(HttpResponse response) = 0;
  virtual boost::asio::awaitable<void> begin_stream(HttpResponse head) = 0;
  virtual boost::asio::awaitable<void> write(std::string piece) = 0;
  virtual boost::asio::awaitable<void> end_stream() = 0;
  // Calls `on_disconnect` at most once, when the peer closes its side while the handler is still at
  // work, or at once when the connection is closed already; not any more after the exchange has
  // ended. A later call takes the place of an earlier one.
  virtual void watch(std::function<void()> on_disconnect) = 0;
};

// A coroutine that answers one request. An exception from it becomes 500, or ends a begun stream.
using HttpHandler = std::function<boost::asio::awaitable<void>(HttpExchange&)>;

// All handlers run on the one thread that calls run(); they must not block it.
class HttpServer {
 public:
  // Binds and listens; throws Error when the address is taken or unknown.
  HttpServer(HttpOptions options, HttpHandler handler);
  ~HttpServer();

  // "http://127.0.0.1:8000" or "unix:/path".
  std::string address() const;
  int port() const;
  boost::asio::any_io_executor executor();

  // Serves until stop(), or until SIGTERM or SIGINT when `handle_signals`; then no new connections,
  // running requests end (at most drain_timeout, or until a second signal), and run() returns.
  // `on_stop` is called at the beginning of that.
  void run(bool handle_signals = false, std::function<void()> on_stop = {});
  // From any thread.
  void stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace quern::server
