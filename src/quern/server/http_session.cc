// See http_session.h.
#include "quern/server/http_session.h"

#include <sys/socket.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <utility>

#include "quern/base/log.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

class Session final : public HttpSession,
                      public HttpExchange,
                      public std::enable_shared_from_this<Session> {
 public:
  using Stream = beast::basic_stream<asio::generic::stream_protocol>;

  Session(Socket socket, std::string client, const HttpOptions& options, const HttpHandler& handler,
          std::function<void(HttpSession*)> on_close)
      : stream_(std::move(socket)),
        client_(std::move(client)),
        options_(options),
        handler_(handler),
        on_close_(std::move(on_close)) {}

  // --- the server's side ---

  void run() {
    asio::co_spawn(
        stream_.get_executor(), [self = shared_from_this()] { return self->serve(); },
        [self = shared_from_this()](std::exception_ptr error) {
          self->log_failure(error);
          self->shut();
          self->on_close_(self.get());
        });
  }

  void drain() override {
    draining_ = true;
    if (!handling_) shut();
  }

  void abort() override { shut(); }

  // --- the handler's side ---

  const HttpRequest& request() const override { return request_; }

  asio::awaitable<void> respond(HttpResponse response) override {
    http::response<http::string_body> message(static_cast<http::status>(response.status), version_);
    fill_head(message, response);
    message.body() = std::move(response.body);
    message.prepare_payload();
    // HEAD: the header of the answer without its body.
    if (request_.method == "HEAD") message.body().clear();
    answered_ = true;
    http::response_serializer<http::string_body> serializer(message);
    stream_.expires_after(options_.write_timeout);
    co_await http::async_write(stream_, serializer, asio::use_awaitable);
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
    stream_.expires_after(options_.write_timeout);
    co_await http::async_write_header(stream_, serializer, asio::use_awaitable);
  }

  asio::awaitable<void> write(std::string piece) override {
    if (piece.empty()) co_return;  // an empty chunk would end the body
    stream_.expires_after(options_.write_timeout);
    const asio::const_buffer bytes(piece.data(), piece.size());
    if (chunked_) {
      co_await asio::async_write(stream_, http::make_chunk(bytes), asio::use_awaitable);
    } else {
      co_await asio::async_write(stream_, bytes, asio::use_awaitable);
    }
  }

  asio::awaitable<void> end_stream() override {
    streaming_ = false;
    if (!chunked_) co_return;
    stream_.expires_after(options_.write_timeout);
    co_await asio::async_write(stream_, http::make_chunk_last(), asio::use_awaitable);
  }

  void watch(std::function<void()> on_disconnect) override {
    stream_.socket().async_wait(
        Socket::wait_read,
        asio::bind_cancellation_slot(
            watch_.slot(), [self = shared_from_this(), on_disconnect = std::move(on_disconnect),
                            number = request_number_](error_code error) {
              if (error || !self->handling_ || number != self->request_number_) return;
              char byte = 0;
              const auto got =
                  ::recv(self->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
              const bool gone = got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
              if (gone) on_disconnect();
            }));
  }

 private:
  // Requests of this connection until the peer or an answer closes it.
  asio::awaitable<void> serve() {
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
      stream_.expires_after(options_.idle_timeout);
      const std::size_t got = co_await stream_.async_read_some(
          buffer_.prepare(4096), asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return false;
      buffer_.commit(got);
    }
    stream_.expires_after(options_.header_timeout);
    co_await http::async_read_header(stream_, buffer_, parser,
                                     asio::redirect_error(asio::use_awaitable, error));
    if (!error && parser.get()[http::field::expect] == "100-continue") {
      co_await send_continue(parser.get().version());
    }
    if (!error && !parser.is_done()) {
      stream_.expires_after(options_.body_timeout);
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
    answered_ = streaming_ = false;
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
    stream_.socket().shutdown(Socket::shutdown_send, error);
    char scratch[4096];
    stream_.expires_after(std::chrono::seconds(2));
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
    stream_.socket().shutdown(Socket::shutdown_both, ignored);
    stream_.close();
  }

  Stream stream_;
  const std::string client_;
  const HttpOptions& options_;
  const HttpHandler& handler_;
  std::function<void(HttpSession*)> on_close_;
  beast::flat_buffer buffer_;
  asio::cancellation_signal watch_;
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
                                                const HttpHandler& handler,
                                                std::function<void(HttpSession*)> on_close) {
  auto session = std::make_shared<Session>(std::move(socket), std::move(client), options, handler,
                                           std::move(on_close));
  session->run();
  return session;
}

}  // namespace quern::server
