// See http_connection.h. The only file of this folder that includes Boost.
#include "quern/eval/http_connection.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <optional>

#include "quern/base/error.h"

namespace quern {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMaxResponseBytes = 64ULL << 20;
constexpr std::uint32_t kMaxHeaderBytes = 64U << 10;
constexpr std::chrono::milliseconds kGrace{200};  // between a deadline and giving up on its handler

}  // namespace

HttpUrl HttpUrl::parse(const std::string& url) {
  const auto bad = [&](const char* why) { return UsageError("base_url '{}': {}", url, why); };
  HttpUrl out;
  std::string_view rest = url;
  if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  } else if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
    out.tls = true;
  } else {
    throw bad("expected http:// or https://");
  }
  for (const char c : rest) {
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f)
      throw bad("a space or control character");
  }
  const std::size_t path = rest.find_first_of("/?#");
  std::string_view authority = rest.substr(0, path);
  if (path != std::string_view::npos) out.target = rest.substr(path, rest.find('#') - path);
  if (!out.target.starts_with('/')) out.target.insert(0, "/");
  if (authority.find('@') != std::string_view::npos) throw bad("user names are not supported");
  std::size_t host_end = 0;
  if (authority.starts_with('[')) {
    host_end = authority.find(']');
    if (host_end == std::string_view::npos) throw bad("unclosed '['");
    out.host = authority.substr(1, host_end - 1);
    ++host_end;
  } else {
    host_end = std::min(authority.find(':'), authority.size());
    out.host = authority.substr(0, host_end);
  }
  if (out.host.empty()) throw bad("no host");
  out.port = out.tls ? "443" : "80";
  if (host_end < authority.size()) {
    out.port = authority.substr(host_end + 1);
    const bool digits = out.port.find_first_not_of("0123456789") == std::string::npos;
    if (authority[host_end] != ':' || out.port.empty() || out.port.size() > 5 || !digits ||
        std::stoi(out.port) > 65535) {
      throw bad("the port must be a number up to 65535");
    }
  }
  return out;
}

std::string HttpUrl::host_header() const {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return port == (tls ? "443" : "80") ? name : name + ":" + port;
}

class HttpConnection::Impl {
 public:
  Impl(HttpUrl url, HttpTls tls)
      : url_(std::move(url)), tls_context_(asio::ssl::context::tls_client) {
    if (!url_.tls) return;
    beast::error_code error;
    if (!tls.verify_certificate) {
      tls_context_.set_verify_mode(asio::ssl::verify_none);
      return;
    }
    tls_context_.set_verify_mode(asio::ssl::verify_peer);
    tls_context_.set_verify_callback(asio::ssl::host_name_verification(url_.host));
    if (tls.ca_cert_path.empty()) {
      tls_context_.set_default_verify_paths(error);
    } else {
      tls_context_.load_verify_file(tls.ca_cert_path, error);
    }
    if (error)
      throw Error("cannot read the certificates{}{}: {}", tls.ca_cert_path.empty() ? "" : " of ",
                  tls.ca_cert_path, error.message());
  }

  using OnPiece = std::function<void(std::string_view)>;

  HttpResponse request(http::request<http::string_body>& message, std::chrono::milliseconds timeout,
                       const OnPiece& on_piece) {
    deadline_ = Clock::now() + timeout;
    const bool reused = stream_ != nullptr;
    beast::error_code error = reused ? beast::error_code{} : connect();
    std::optional<HttpResponse> response;
    if (!error) response = exchange(message, error, on_piece);
    // A kept connection that the server closed between requests: nothing was answered, ask again.
    if (error && reused && !received_ && error != beast::error::timeout) {
      close();
      error = connect();
      if (!error) response = exchange(message, error, on_piece);
    }
    if (!response) {
      close();
      const std::string place = url_.host_header();
      if (error == beast::error::timeout) {
        throw Error("{}: no complete answer within {:.3g} s", place,
                    std::chrono::duration<double>(timeout).count());
      }
      throw Error("{}: {}", place, error.message());
    }
    return *std::move(response);
  }

  void close() { stream_.reset(); }

 private:
  using TlsStream = beast::ssl_stream<beast::tcp_stream>;

  // Runs the io_context until the operation that `start` began has ended. The stream's deadline
  // ends every operation but a name lookup, which cannot be interrupted: its late result lands in
  // shared state that nobody reads.
  template <typename Start>
  beast::error_code wait_for(Start&& start) {
    const auto result = std::make_shared<std::optional<beast::error_code>>();
    start([result](beast::error_code error) { *result = error; });
    context_.restart();
    context_.run_until(deadline_ + kGrace);
    return result->value_or(beast::error::timeout);
  }

  beast::tcp_stream& lowest() { return beast::get_lowest_layer(*stream_); }

  beast::error_code connect() {
    const auto addresses = std::make_shared<Tcp::resolver::results_type>();
    beast::error_code error = wait_for([&](auto done) {
      resolver_.async_resolve(url_.host, url_.port,
                              [addresses, done](beast::error_code e, auto results) {
                                *addresses = std::move(results);
                                done(e);
                              });
    });
    if (error) return error;
    stream_ = std::make_unique<TlsStream>(context_, tls_context_);
    buffer_.clear();
    lowest().expires_at(deadline_);
    error = wait_for([&](auto done) {
      lowest().async_connect(*addresses, [done](beast::error_code e, const auto&) { done(e); });
    });
    if (error) return error;
    beast::error_code ignored;
    lowest().socket().set_option(Tcp::no_delay(true), ignored);
    if (!url_.tls) return {};
    if (SSL_set_tlsext_host_name(stream_->native_handle(), url_.host.c_str()) != 1) {
      return {static_cast<int>(::ERR_get_error()), asio::error::get_ssl_category()};
    }
    return wait_for(
        [&](auto done) { stream_->async_handshake(asio::ssl::stream_base::client, done); });
  }

  std::optional<HttpResponse> exchange(http::request<http::string_body>& message,
                                       beast::error_code& error, const OnPiece& on_piece) {
    received_ = false;
    lowest().expires_at(deadline_);
    http::response_parser<http::string_body> parser;
    parser.body_limit(kMaxResponseBytes);
    parser.header_limit(kMaxHeaderBytes);
    const auto over = [&](auto& stream) {
      error = wait_for([&](auto done) {
        http::async_write(stream, message, [done](beast::error_code e, std::size_t) { done(e); });
      });
      if (error) return;
      error = wait_for([&](auto done) {
        http::async_read_header(stream, buffer_, parser,
                                [done](beast::error_code e, std::size_t) { done(e); });
      });
      received_ = parser.got_some();
      // Not eager: that would wait, behind a chunk, for the size of the next one.
      parser.eager(false);
      std::size_t seen = 0;
      while (!error && !parser.is_done()) {
        error = wait_for([&](auto done) {
          http::async_read_some(stream, buffer_, parser,
                                [done](beast::error_code e, std::size_t) { done(e); });
        });
        const std::string& body = parser.get().body();
        if (on_piece && body.size() > seen) on_piece(std::string_view(body).substr(seen));
        seen = body.size();
      }
    };
    if (url_.tls) {
      over(*stream_);
    } else {
      over(lowest());
    }
    if (error) return std::nullopt;
    HttpResponse response{static_cast<int>(parser.get().result_int()),
                          std::move(parser.get().body())};
    lowest().expires_never();
    if (!parser.get().keep_alive()) close();
    return response;
  }

  HttpUrl url_;
  asio::ssl::context tls_context_;
  asio::io_context context_;
  Tcp::resolver resolver_{context_};
  std::unique_ptr<TlsStream> stream_;  // plain HTTP uses its lowest layer
  beast::flat_buffer buffer_;
  Clock::time_point deadline_;
  bool received_ = false;  // some byte of the answer has arrived
};

HttpConnection::HttpConnection(HttpUrl url, HttpTls tls)
    : impl_(std::make_unique<Impl>(std::move(url), std::move(tls))) {}
HttpConnection::~HttpConnection() = default;

HttpResponse HttpConnection::request(
    const std::string& method, const std::string& target, const std::string& body,
    const std::vector<std::pair<std::string, std::string>>& headers,
    std::chrono::milliseconds timeout, const std::function<void(std::string_view)>& on_piece) {
  http::request<http::string_body> message(method == "GET" ? http::verb::get : http::verb::post,
                                           target, 11);
  for (const auto& [name, value] : headers) message.set(name, value);
  message.body() = body;
  message.prepare_payload();
  return impl_->request(message, timeout, on_piece);
}

}  // namespace quern
