// The server over TLS: answers, clients that leave, certificates of clients, wrong files.
#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <atomic>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "quern/base/error.h"
#include "quern/server/http_server.h"
#include "tests/server/media_server.h"
#include "tests/server/raw_client.h"
#include "tests/support/temp_directory.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

// A blocking TLS client.
class TlsClient {
 public:
  // `own` may be empty: PEM files of the client's certificate and key.
  TlsClient(int port, const std::string& trusted, const std::string& own = {},
            const std::string& own_key = {})
      : context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_load_verify_locations(context_, trusted.c_str(), nullptr);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    if (!own.empty()) {
      SSL_CTX_use_certificate_file(context_, own.c_str(), SSL_FILETYPE_PEM);
      SSL_CTX_use_PrivateKey_file(context_, own_key.c_str(), SSL_FILETYPE_PEM);
    }
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, fd_);
    connected_ = SSL_connect(ssl_) == 1;
  }
  ~TlsClient() {
    if (connected_) SSL_shutdown(ssl_);
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    ::close(fd_);
  }

  bool connected() const { return connected_; }
  void send(const std::string& text) {
    SSL_write(ssl_, text.data(), static_cast<int>(text.size()));
  }
  std::string read_all() {
    std::string text;
    char buffer[4096];
    for (int got = 0; (got = SSL_read(ssl_, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }

 private:
  SSL_CTX* context_;
  int fd_;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
};

class TlsTest : public testing::Test {
 protected:
  TlsTest() {
    SSL_CTX_free(test::make_tls("localhost", certificate_, key_));
    SSL_CTX_free(test::make_tls("client", client_certificate_, client_key_));
    options_.host = "127.0.0.1";
    options_.port = 0;
    options_.tls.certfile = certificate_;
    options_.tls.keyfile = key_;
  }
  void start() {
    server_ = std::make_unique<HttpServer>(
        options_, [this](HttpExchange& exchange) { return handle(exchange); });
    thread_ = std::thread([this] { server_->run(); });
  }
  ~TlsTest() override {
    if (server_ == nullptr) return;
    server_->stop();
    thread_.join();
  }

  // /wait: until the client has gone; else a stream of two pieces.
  asio::awaitable<void> handle(HttpExchange& exchange) {
    HttpResponse response;
    if (exchange.request().path == "/wait") {
      asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::seconds(20));
      exchange.watch([&] {
        ++disconnects_;
        timer.cancel();
      });
      boost::system::error_code ignored;
      co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      co_await exchange.respond(response);
      co_return;
    }
    co_await exchange.begin_stream(response);
    co_await exchange.write("hello ");
    co_await exchange.write(exchange.request().body);
    co_await exchange.end_stream();
  }

  const quern::test::TempDirectory directory_;
  const std::string certificate_ = directory_ / "server.pem";
  const std::string key_ = directory_ / "server.key";
  const std::string client_certificate_ = directory_ / "client.pem";
  const std::string client_key_ = directory_ / "client.key";
  HttpOptions options_;
  std::atomic<int> disconnects_{0};
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(TlsTest, AnswersAndEndsProperly) {
  start();
  EXPECT_TRUE(server_->address().starts_with("https://"));
  TlsClient client(server_->port(), certificate_);
  ASSERT_TRUE(client.connected());
  client.send(post("/x", "there", "Connection: close\r\n"));
  const std::string answer = client.read_all();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_TRUE(answer.ends_with("6\r\nhello \r\n5\r\nthere\r\n0\r\n\r\n")) << answer;
}

TEST_F(TlsTest, PlainTextIsNotServed) {
  start();
  RawClient client(server_->port());
  client.send(post("/x", "there"));
  EXPECT_EQ(client.read_all().find("HTTP/1.1"), std::string::npos);
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(TlsClient(server_->port(), certificate_).connected()) << "others are still served";
}

TEST_F(TlsTest, AClientThatLeavesIsNoticed) {
  start();
  {
    TlsClient client(server_->port(), certificate_);
    client.send(post("/wait", ""));
    std::this_thread::sleep_for(milliseconds(100));
    EXPECT_EQ(disconnects_, 0);
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (disconnects_ == 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(disconnects_, 1);
}

TEST_F(TlsTest, CertificatesOfClients) {
  options_.tls.ca_certs = client_certificate_;
  options_.tls.cert_reqs = 2;
  start();
  const auto answer = [&](TlsClient&& client) {
    client.send(post("/x", "there", "Connection: close\r\n"));
    return client.read_all();
  };
  // Under TLS 1.3 a client learns of the refusal with its first read.
  EXPECT_EQ(answer(TlsClient(server_->port(), certificate_)), "");
  EXPECT_NE(answer(TlsClient(server_->port(), certificate_, client_certificate_, client_key_)), "");
}

TEST_F(TlsTest, WrongFilesAreNamed) {
  const struct {
    TlsOptions tls;
    const char* text;
  } rows[] = {
      {{"/nowhere.pem", key_, "", 0, ""}, "--ssl-certfile /nowhere.pem"},
      {{certificate_, "/nowhere.key", "", 0, ""}, "--ssl-keyfile /nowhere.key"},
      {{certificate_, certificate_, "", 0, ""}, "--ssl-keyfile"},
      {{certificate_, client_key_, "", 0, ""}, "--ssl-keyfile"},
      {{certificate_, key_, "/nowhere", 0, ""}, "--ssl-ca-certs /nowhere"},
      {{certificate_, key_, "", 2, ""}, "--ssl-ca-certs is needed"},
      {{certificate_, key_, "", 0, "NONSENSE"}, "--ssl-ciphers NONSENSE"},
      {{"", key_, "", 0, ""}, "--ssl-certfile is needed"},
  };
  for (const auto& row : rows) {
    options_.tls = row.tls;
    try {
      HttpServer(options_, [this](HttpExchange& exchange) { return handle(exchange); });
      ADD_FAILURE() << "accepted; expected: " << row.text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(row.text), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quern::server
