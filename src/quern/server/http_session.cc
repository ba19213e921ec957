// See http_session.h.
#include "quern/server/http_session.h"

#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/buffers_suffix.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <chrono>
#include <type_traits>
#include <utility>

#include "quern/base/log.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

using PlainStream = beast::basic_stream<asio::generic::stream_protocol>;
using TlsStream = beast::ssl_stream<PlainStream>;

// How often a connection is asked whether its peer has gone, while its handler works.
constexpr std::chrono::milliseconds kWatchInterval{50};

// Room for what is read at once and for a chunk's head, beside a request's header.
constexpr std::size_t kChunkHeadBytes = 128 << 10;

template <typename Stream>
class Session final : public HttpSession,
                      public HttpExchange,
                      public std::enable_shared_from_this<Session<Stream>> {
 public:
  Session(Stream stream, std::string client, const HttpOptions& options, const HttpHandler& handler,
          std::function<void(HttpSession*)> on_close)
      : stream_(std::move(stream)),
        client_(std::move(client)),
        options_(options),
        handler_(handler),
        on_close_(std::move(on_close)),
        buffer_(options.max_header_bytes + kChunkHeadBytes),
        watch_timer_(stream_.get_executor()) {}

  // --- the server's side ---

  void run() {
    asio::co_spawn(
        stream_.get_executor(), [self = this->shared_from_this()] { return self->serve(); },
        [self = this->shared_from_this()](std::exception_ptr error) {
          self->log_failure(error);
          self->shut();
          self->on_close_(self.get());
        });
  }

  void drain() override {
    draining_ = true;
    if (!handling_) shut();
  }

  void abort() override {
    if (const auto gone = std::exchange(on_disconnect_, nullptr)) gone();
    shut();
  }

  // --- the handler's side ---

  const HttpRequest& request() const override { return request_; }
  void release_body() override { std::string().swap(request_.body); }
  bool answered() const override { return answered_; }

  asio::awaitable<void> respond(HttpResponse response) override {
    http::response<http::string_body> message(static_cast<http::status>(response.status), version_);
    fill_head(message, response);
    message.body() = std::move(response.body);
    message.prepare_payload();
    // HEAD: the header of the answer without its body.
    if (request_.method == "HEAD") message.body().clear();
    answered_ = true;
    http::response_serializer<http::string_body> serializer(message);
    while (!serializer.is_done()) {
      lowest().expires_after(options_.write_timeout);
      co_await http::async_write_some(stream_, serializer, asio::use_awaitable);
    }
  }

  asio::awaitable<void> begin_stream(HttpResponse head) override {
    http::response<http::empty_body> message(static_cast<http::status>(head.status), version_);
    chunked_ = version_ >= 11;
    // HTTP/1.0 knows no chunks: the end of the connection ends the body.
    if (!chunked_) keep_alive_ = false;
    fill_head(message, head);
    if (chunked_) message.chunked(true);
    answered_ = true;
    streaming_ = true;
    http::response_serializer<http::empty_body> serializer(message);
    lowest().expires_after(options_.write_timeout);
    co_await http::async_write_header(stream_, serializer, asio::use_awaitable);
  }

  asio::awaitable<void> write(std::string piece) override {
    if (piece.empty()) co_return;  // an empty chunk would end the body
    const asio::const_buffer bytes(piece.data(), piece.size());
    if (chunked_) {
      co_await write_all(http::make_chunk(bytes));
    } else {
      co_await write_all(bytes);
    }
  }

  asio::awaitable<void> end_stream() override {
    streaming_ = false;
    if (chunked_) co_await write_all(http::make_chunk_last());
  }

  void watch(std::function<void()> on_disconnect) override {
    if (!lowest().socket().is_open()) return on_disconnect();  // by abort() or a time-out
    on_disconnect_ = std::move(on_disconnect);
    if (std::exchange(watching_, true)) return;
    lowest().socket().async_wait(
        Socket::wait_read,
        asio::bind_cancellation_slot(watch_.slot(), [self = this->shared_from_this(),
                                                     number = request_number_](error_code error) {
          if (!error) self->look_for_end(number);
        }));
  }

 private:
  PlainStream& lowest() { return beast::get_lowest_layer(stream_); }

  // The time-out is for the next bytes that the peer takes: a slow reader of much may be slow.
  template <typename Buffers>
  asio::awaitable<void> write_all(Buffers buffers) {
    beast::buffers_suffix<Buffers> rest(buffers);
    while (beast::buffer_bytes(rest) > 0) {
      lowest().expires_after(options_.write_timeout);
      rest.consume(co_await stream_.async_write_some(rest, asio::use_awaitable));
    }
  }

  // The peer has sent something or closed its side. Bytes stay unread until the answer is written,
  // and would hide a later end from a wait for reading: it is asked for again and again.
  void look_for_end(std::uint64_t number) {
    if (!handling_ || number != request_number_ || !lowest().socket().is_open()) return;
    pollfd state{lowest().socket().native_handle(), POLLRDHUP, 0};
    if (::poll(&state, 1, 0) > 0) {
      watching_ = false;  // who asks to watch from now on is told as well
      return std::exchange(on_disconnect_, nullptr)();
    }
    watch_timer_.expires_after(kWatchInterval);
    watch_timer_.async_wait(asio::bind_cancellation_slot(
        watch_.slot(), [self = this->shared_from_this(), number](error_code error) {
          if (!error) self->look_for_end(number);
        }));
  }

  asio::awaitable<bool> shake_hands() {
    error_code error;
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      lowest().expires_after(options_.header_timeout);
      co_await stream_.async_handshake(asio::ssl::stream_base::server,
                                       asio::redirect_error(asio::use_awaitable, error));
    }
    co_return !error;
  }

  // Requests of this connection until the peer or an answer closes it.
  asio::awaitable<void> serve() {
    const bool greeted = co_await shake_hands();
    if (!greeted) co_return;
    while (keep_alive_ && !draining_) {
      const bool got = co_await read_request();
      if (!got) co_return;
      co_await handle();
    }
    co_await linger();
  }

  // False at the end of the connection. A request that cannot be read is answered and ends it.
  asio::awaitable<bool> read_request() {
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<std::uint32_t>(options_.max_header_bytes));
    parser.body_limit(options_.max_body_bytes);
    error_code error;

    if (buffer_.size() == 0) {  // else a pipelined request has begun
      lowest().expires_after(options_.idle_timeout);
      const std::size_t got = co_await stream_.async_read_some(
          buffer_.prepare(4096), asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return false;
      buffer_.commit(got);
    }
    lowest().expires_after(options_.header_timeout);
    co_await http::async_read_header(stream_, buffer_, parser,
                                     asio::redirect_error(asio::use_awaitable, error));
    if (!error && parser.get()[http::field::expect] == "100-continue") {
      co_await send_continue(parser.get().version());
    }
    if (!error && !parser.is_done()) {
      lowest().expires_after(options_.body_timeout);
      co_await http::async_read(stream_, buffer_, parser,
                                asio::redirect_error(asio::use_awaitable, error));
    }
    if (error) {
      co_await refuse(error);
      co_return false;
    }
    take(parser.release());
    co_return true;
  }

  asio::awaitable<void> send_continue(unsigned version) {
    http::response<http::empty_body> message(http::status::continue_, version);
    http::response_serializer<http::empty_body> serializer(message);
    co_await http::async_write_header(stream_, serializer, asio::use_awaitable);
  }

  void take(http::request<http::string_body> message) {
    request_ = {};
    request_.client = client_;
    request_.method = std::string(message.method_string());
    const std::string target(message.target());
    const auto mark = target.find('?');
    request_.path = target.substr(0, mark);
    if (mark != std::string::npos) request_.query = target.substr(mark + 1);
    for (const auto& field : message) {
      request_.headers.emplace_back(lower_case(field.name_string()), std::string(field.value()));
    }
    version_ = message.version();
    keep_alive_ = message.keep_alive();
    request_.body = std::move(message.body());
  }

  asio::awaitable<void> handle() {
    answered_ = streaming_ = watching_ = false;
    handling_ = true;
    ++request_number_;
    std::exception_ptr failure;
    try {
      co_await handler_(*this);
    } catch (...) {
      failure = std::current_exception();
    }
    handling_ = false;
    watch_.emit(asio::cancellation_type::all);
    on_disconnect_ = nullptr;
    if (!failure && answered_ && !streaming_) co_return;
    keep_alive_ = false;
    if (answered_) {  // a cut stream: the peer sees that it did not end properly
      if (failure) log_failure(failure);
      shut();
      co_return;
    }
    if (failure) log_failure(failure);
    HttpResponse response;
    response.status = 500;
    response.body = ApiError(500, "Internal server error").body().dump();
    co_await respond(std::move(response));
  }

  // Answers what never became a request; nothing when the peer is gone or was too slow (the
  // time-out has closed the socket).
  asio::awaitable<void> refuse(error_code error) {
    static const auto& http_errors = http::make_error_code(http::error::bad_method).category();
    if (error.category() != http_errors || error == http::error::end_of_stream ||
        error == http::error::partial_message) {
      co_return;
    }
    int status = 400;
    std::string text = "Bad request: " + error.message();
    if (error == http::error::header_limit) {
      status = 431;
      text = "The request header is too large.";
    } else if (error == http::error::buffer_overflow) {
      status = 431;
      text = "A chunk's head or the trailers of the request are too large.";
    } else if (error == http::error::body_limit) {
      status = 413;
      text = "The request body is too large.";
    }
    keep_alive_ = false;
    version_ = 11;
    request_ = {};
    HttpResponse response;
    response.status = status;
    response.body = ApiError(status, text).body().dump();
    co_await respond(std::move(response));
    co_await linger();
  }

  // Ends our side and reads what the peer still sends, for a short while: a close with unread bytes
  // would make the kernel reset the connection and destroy the answer on its way.
  asio::awaitable<void> linger() {
    error_code error;
    if constexpr (std::is_same_v<Stream, TlsStream>) {  // says itself that nothing follows
      lowest().expires_after(std::chrono::seconds(2));
      co_await stream_.async_shutdown(asio::redirect_error(asio::use_awaitable, error));
      co_return;
    }
    lowest().socket().shutdown(Socket::shutdown_send, error);
    char scratch[4096];
    lowest().expires_after(std::chrono::seconds(2));
    while (!error) {
      co_await stream_.async_read_some(asio::buffer(scratch),
                                       asio::redirect_error(asio::use_awaitable, error));
    }
  }

  template <typename Message>
  void fill_head(Message& message, const HttpResponse& response) {
    message.set(http::field::server, "quern");
    if (!response.content_type.empty()) {
      message.set(http::field::content_type, response.content_type);
    }
    for (const auto& [name, value] : response.headers) message.set(name, value);
    if (draining_) keep_alive_ = false;
    message.keep_alive(keep_alive_);
  }

  void log_failure(std::exception_ptr failure) {
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const boost::system::system_error&) {
      // The peer went away: its business.
    } catch (const std::exception& error) {
      spdlog::error("request {} {} failed: {}", request_.method, request_.path, error.what());
    }
  }

  void shut() {
    error_code ignored;
    lowest().socket().shutdown(Socket::shutdown_both, ignored);
    lowest().close();
  }

  Stream stream_;
  const std::string client_;
  const HttpOptions& options_;
  const HttpHandler& handler_;
  std::function<void(HttpSession*)> on_close_;
  // A chunk's head and the trailers have no limit of their own in Beast.
  beast::flat_buffer buffer_;
  asio::cancellation_signal watch_;
  std::function<void()> on_disconnect_;
  bool watching_ = false;
  asio::steady_timer watch_timer_;
  HttpRequest request_;
  std::uint64_t request_number_ = 0;
  unsigned version_ = 11;
  bool keep_alive_ = true;
  bool draining_ = false;
  bool handling_ = false;
  bool answered_ = false;
  bool streaming_ = false;
  bool chunked_ = false;
};

}  // namespace

std::shared_ptr<HttpSession> HttpSession::start(Socket socket, std::string client,
                                                const HttpOptions& options,
                                                const HttpHandler& handler, asio::ssl::context* tls,
                                                std::function<void(HttpSession*)> on_close) {
  const auto run = [&](auto stream) -> std::shared_ptr<HttpSession> {
    auto session = std::make_shared<Session<decltype(stream)>>(
        std::move(stream), std::move(client), options, handler, std::move(on_close));
    session->run();
    return session;
  };
  if (tls == nullptr) return run(PlainStream(std::move(socket)));
  return run(TlsStream(PlainStream(std::move(socket)), *tls));
}

}  // namespace quern::server
