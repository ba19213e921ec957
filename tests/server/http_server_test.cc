// Hostile and awkward HTTP against the bare server.
#include "quern/server/http_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <thread>

#include "quern/base/error.h"
#include "tests/server/raw_client.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

constexpr std::size_t kLargeBytes = 14 << 20;

// /echo: the body back; /stream: three pieces; /flood: 64 MB; /slow: answers after 300 ms; /throw;
// /large, /piece: kLargeBytes as a body, as one piece of a stream; /late: watches after 100 ms.
class HttpServerTest : public testing::Test {
 protected:
  void start(HttpOptions options = {}) {
    options.host = "127.0.0.1";
    options.port = 0;
    server_ = std::make_unique<HttpServer>(
        options, [this](HttpExchange& exchange) { return handle(exchange); });
    thread_ = std::thread([this] { server_->run(); });
  }
  ~HttpServerTest() override {
    if (thread_.joinable()) {
      server_->stop();
      thread_.join();
    }
  }

  asio::awaitable<void> handle(HttpExchange& exchange) {
    ++requests_;
    const std::string path = exchange.request().path;
    HttpResponse response;
    response.content_type = "text/plain";
    if (path == "/throw") throw std::runtime_error("broken handler");
    if (path == "/slow") {
      exchange.watch([this] { ++disconnects_; });
      asio::steady_timer timer(co_await asio::this_coro::executor, milliseconds(300));
      co_await timer.async_wait(asio::use_awaitable);
    }
    if (path == "/late") {
      asio::steady_timer timer(co_await asio::this_coro::executor, milliseconds(100));
      co_await timer.async_wait(asio::use_awaitable);
      exchange.watch([this] { ++disconnects_; });
    }
    if (path == "/large") {
      response.body = std::string(kLargeBytes, 'x');
      co_return co_await exchange.respond(std::move(response));
    }
    if (path == "/piece") {
      co_await exchange.begin_stream(response);
      co_await exchange.write(std::string(kLargeBytes, 'x'));
      co_return co_await exchange.end_stream();
    }
    if (path == "/release") exchange.release_body();
    if (path == "/stream" || path == "/flood") {
      co_await exchange.begin_stream(response);
      const int pieces = path == "/stream" ? 3 : 1024;
      for (int i = 0; i < pieces; ++i) {
        std::string piece = path == "/stream" ? "piece" : std::string(64 << 10, 'x');
        co_await exchange.write(std::move(piece));
      }
      co_await exchange.end_stream();
      co_return;
    }
    response.body = exchange.request().method + " " + path + " " + exchange.request().query + " " +
                    exchange.request().body;
    co_await exchange.respond(std::move(response));
  }

  std::string ask(std::string_view bytes) {
    RawClient client(server_->port());
    client.send(bytes);
    client.half_close();
    return client.read_all();
  }

  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
  std::atomic<int> requests_{0};
  std::atomic<int> disconnects_{0};
};

TEST_F(HttpServerTest, WrongBytesGetTheirStatus) {
  HttpOptions options;
  options.max_body_bytes = 1000;
  options.max_header_bytes = 2000;
  start(options);
  struct Case {
    std::string bytes;
    std::string answer;  // how it begins; "" = closed without an answer
  };
  const std::string chunked =
      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  const Case cases[] = {
      {"GET /echo?a=b HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200"},
      {chunked + "3\r\nabc\r\n0\r\n\r\n", "HTTP/1.1 200"},
      {chunked + "zz\r\nabc\r\n", "HTTP/1.1 400"},
      {chunked + "5;" + std::string(300'000, 'a'), "HTTP/1.1 431"},
      {chunked + "0\r\n" + std::string(300'000, 'a'), "HTTP/1.1 431"},
      {chunked + "ffffffffffffffffff\r\nabc", "HTTP/1.1 400"},
      {chunked + "7d1\r\n" + std::string(2001, 'x') + "\r\n0\r\n\r\n", "HTTP/1.1 413"},
      {"nonsense\r\n\r\n", "HTTP/1.1 400"},
      {"GET /echo HTTP/9.9\r\n\r\n", "HTTP/1.1 400"},
      {std::string(600, '\0'), "HTTP/1.1 400"},
      {"GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(5000, 'x') + "\r\n\r\n", "HTTP/1.1 431"},
      {"POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", "HTTP/1.1 413"},
      {"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400"},
      {"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
       "HTTP/1.1 400"},
      {"POST /echo HTTP/1.1\r\nContent-Length: 50\r\n\r\nshort", ""},
      {"", ""},
      {"GET /throw HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 500"},
  };
  for (const Case& c : cases) {
    const std::string answer = ask(c.bytes);
    EXPECT_TRUE(c.answer.empty() ? answer.empty() : answer.starts_with(c.answer))
        << c.bytes.substr(0, 80) << "\n-> " << answer;
  }
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  std::string bytes;
  for (int i = 0; i < 50; ++i) bytes += post("/echo", "body" + std::to_string(i));
  RawClient client(server_->port());
  client.send(bytes);
  const std::string answer = client.read_until("body49");
  std::size_t at = 0;
  for (int i = 0; i < 50; ++i) {
    at = answer.find("POST /echo  body" + std::to_string(i), at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST_F(HttpServerTest, StreamsInChunksAndPlainForOldClients) {
  start();
  const std::string chunked = ask("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_NE(chunked.find("\r\n\r\n5\r\npiece\r\n5\r\npiece\r\n5\r\npiece\r\n0\r\n\r\n"),
            std::string::npos)
      << chunked;
  const std::string plain = ask("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(plain.ends_with("\r\n\r\npiecepiecepiece")) << plain;
}

TEST_F(HttpServerTest, AnswersContinueBeforeTheBody) {
  start();
  RawClient client(server_->port());
  client.send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
  EXPECT_TRUE(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 100"));
  client.send("abc");
  EXPECT_NE(client.read_until("abc").find("POST /echo  abc"), std::string::npos);
}

TEST_F(HttpServerTest, SlowSendersAreCutOff) {
  HttpOptions options;
  options.header_timeout = options.idle_timeout = options.body_timeout = milliseconds(150);
  start(options);
  for (const char* bytes :
       {"", "GET /echo HT", "POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"}) {
    RawClient client(server_->port());
    client.send(bytes);
    client.read_until("", milliseconds(5000));
    EXPECT_TRUE(client.ended()) << bytes;
  }
  EXPECT_EQ(requests_, 0);
}

TEST_F(HttpServerTest, AReaderThatTakesNothingIsCutOffAndBlocksNobody) {
  HttpOptions options;
  options.write_timeout = milliseconds(300);
  start(options);
  RawClient lazy(server_->port());
  lazy.send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
  RawClient lazier(server_->port(), 64 << 10);
  lazier.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(ask(post("/echo", "x")).starts_with("HTTP/1.1 200"));
  std::this_thread::sleep_for(milliseconds(800));
  std::string got = lazy.read_all();
  EXPECT_TRUE(lazy.ended());
  EXPECT_FALSE(got.ends_with("0\r\n\r\n"));
  EXPECT_LT(lazier.skip(2 * kLargeBytes), kLargeBytes);
}

// The time-out is for progress, not for the whole of a large answer.
TEST_F(HttpServerTest, AReaderThatIsOnlySlowGetsEverything) {
  HttpOptions options;
  options.write_timeout = milliseconds(600);
  start(options);
  RawClient body(server_->port(), 64 << 10);
  RawClient stream(server_->port(), 64 << 10);
  body.send("GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  stream.send("GET /piece HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  std::size_t body_bytes = 0;
  std::size_t stream_bytes = 0;
  while (!body.ended() || !stream.ended()) {
    body_bytes += body.skip(256 << 10);
    stream_bytes += stream.skip(256 << 10);
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_GT(body_bytes, kLargeBytes);
  EXPECT_GT(stream_bytes, kLargeBytes);
}

TEST_F(HttpServerTest, AReleasedBodyIsGone) {
  start();
  const std::string answer = ask(post("/release", "the body"));
  EXPECT_TRUE(answer.ends_with("POST /release  ")) << answer;
}

TEST_F(HttpServerTest, DisconnectIsNoticedWhileTheHandlerWorks) {
  start();
  {
    RawClient client(server_->port());
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    while (requests_ == 0) std::this_thread::yield();
  }
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_EQ(disconnects_, 1);
  // A client that stays is not taken for gone, and the next request of a connection works.
  RawClient client(server_->port());
  client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
  client.read_until("GET /slow");
  client.send(post("/echo", "again"));
  EXPECT_NE(client.read_until("again").find("again"), std::string::npos);
  EXPECT_EQ(disconnects_, 1);
}

TEST_F(HttpServerTest, WhoWatchesAConnectionThatWasAbortedIsTold) {
  start();
  RawClient client(server_->port());
  client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
  while (requests_ == 0) std::this_thread::yield();
  server_->stop();
  server_->stop();  // the second one aborts
  thread_.join();
  EXPECT_EQ(disconnects_, 1);
}

TEST_F(HttpServerTest, StopLetsRunningRequestsEndAndTakesNoMore) {
  start();
  RawClient idle(server_->port());
  idle.send(post("/echo", "first"));
  idle.read_until("first");
  RawClient busy(server_->port());
  busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
  while (requests_ < 2) std::this_thread::yield();
  const int port = server_->port();
  server_->stop();
  thread_.join();
  EXPECT_TRUE(busy.read_all().starts_with("HTTP/1.1 200"));
  idle.read_all();
  EXPECT_TRUE(idle.ended());
  EXPECT_FALSE(RawClient(port).connected());
}

TEST_F(HttpServerTest, MoreConnectionsThanAllowedWait) {
  HttpOptions options;
  options.max_connections = 2;
  start(options);
  auto first = std::make_unique<RawClient>(server_->port());
  RawClient second(server_->port());
  first->send(post("/echo", "a"));
  second.send(post("/echo", "b"));
  EXPECT_TRUE(first->read_until("a").starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(second.read_until("b").starts_with("HTTP/1.1 200"));
  RawClient third(server_->port());
  third.send(post("/echo", "third"));
  EXPECT_EQ(third.read_until("third", milliseconds(200)), "");
  first.reset();
  EXPECT_TRUE(third.read_until("third").starts_with("HTTP/1.1 200"));
}

TEST(HttpServer, TakenPortAndUnknownHostAreErrors) {
  const auto handler = [](HttpExchange&) -> asio::awaitable<void> { co_return; };
  HttpOptions options;
  options.host = "127.0.0.1";
  options.port = 0;
  const HttpServer first(options, handler);
  options.port = first.port();
  EXPECT_THROW(HttpServer(options, handler), Error);
  options.host = "256.1.1.1";
  EXPECT_THROW(HttpServer(options, handler), Error);
}

}  // namespace
}  // namespace quern::server
