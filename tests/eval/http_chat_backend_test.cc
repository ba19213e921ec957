// The HTTP client against a server that misbehaves on purpose.
#include "quern/eval/http_chat_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "quern/base/error.h"
#include "quern/eval/answer_cache.h"
#include "quern/eval/http_connection.h"
#include "tests/server/media_server.h"
#include "tests/support/scripted_server.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

using std::chrono::milliseconds;
using test::ScriptedServer;

using test::http;

std::string answer(const std::string& content) {
  return http(200, R"({"choices": [{"index": 0, "message": {"content": )" + content + "}}]}");
}

std::unique_ptr<ChatBackend> client(const ScriptedServer& server, int attempts = 3,
                                    milliseconds timeout = milliseconds(5000)) {
  HttpBackendOptions options;
  options.url = server.url("/v1/chat/completions");
  options.model = "m";
  options.max_attempts = attempts;
  options.timeout = timeout;
  options.headers = {{"Authorization", "Bearer key"}};
  options.retry_wait = [](int) { return milliseconds(1); };
  return make_http_chat_backend(options);
}

const Json kRequest{{"messages", Json::array()}, {"model", "m"}};

std::string failure(ChatBackend& backend) {
  try {
    backend.complete(kRequest);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(HttpChatBackend, SendsTheBodyAndReadsAnswers) {
  std::string seen;
  ScriptedServer server([&](int n, const std::string& request) {
    seen = request;
    return answer(n == 0 ? R"("h\u00e9 42")" : "null");
  });
  const auto backend = client(server);
  EXPECT_EQ(backend->complete(kRequest), "hé 42");
  EXPECT_THAT(seen, testing::AllOf(testing::StartsWith("POST /v1/chat/completions HTTP/1.1\r\n"),
                                   testing::HasSubstr("Authorization: Bearer key\r\n"),
                                   testing::HasSubstr("Content-Type: application/json\r\n"),
                                   testing::EndsWith(R"({"messages": [], "model": "m"})")));
  EXPECT_EQ(backend->complete(kRequest), std::nullopt);
  EXPECT_EQ(server.connections(), 1);  // kept alive
}

TEST(HttpChatBackend, EveryFailureIsRetriedThenTold) {
  const struct {
    std::string reply;
    const char* expected;
  } rows[] = {{http(400, R"({"error": "bad"})"), "400"},
              {http(500, "boom\nboom"), "boom boom"},
              {http(307, ""), "307"},
              {"", "end of stream"},
              {"garbage\r\n\r\n", ""},
              {http(200, "{\"choices\""), "invalid JSON"},
              {http(200, std::string(1000, '[')), "nested deeper"},
              {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "body limit"},
              {"HTTP/1.1 200 OK\r\nX: " + std::string(200'000, 'x') + "\r\n\r\n", "limit"}};
  for (const auto& row : rows) {
    ScriptedServer server(
        [&](int n, const std::string&) { return n < 2 ? row.reply : answer("\"ok\""); });
    EXPECT_EQ(client(server)->complete(kRequest), "ok") << row.expected;
    EXPECT_EQ(server.requests(), 3) << row.expected;
    ScriptedServer broken([&](int, const std::string&) { return row.reply; });
    const std::string error = failure(*client(broken, 2));
    EXPECT_THAT(error, testing::HasSubstr("attempt 2 of 2"));
    EXPECT_THAT(error, testing::HasSubstr(row.expected));
    EXPECT_EQ(broken.requests(), 2) << error;
  }
}

TEST(HttpChatBackend, TimeoutCoversTheWholeAnswer) {
  for (const std::string& reply :
       {std::string("hang"), std::string("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")}) {
    ScriptedServer server([&](int, const std::string&) { return reply; });
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT(failure(*client(server, 1, milliseconds(150))), testing::HasSubstr("0.15 s"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(3000));
  }
}

TEST(HttpChatBackend, ClosedKeptConnectionIsReplaced) {
  ScriptedServer server([](int, const std::string&) { return answer("\"a\""); },
                        /*close_after_answer=*/true);
  const auto backend = client(server, 1);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(backend->complete(kRequest), "a");
    std::this_thread::sleep_for(milliseconds(10));  // the close has arrived before the next request
  }
}

TEST(HttpChatBackend, ManyThreadsAtOnce) {
  ScriptedServer server(
      [](int n, const std::string&) { return n % 7 == 3 ? http(503, "") : answer("\"a\""); });
  const auto backend = client(server, 20);
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 16; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20; ++i) right += backend->complete(kRequest) == "a" ? 1 : 0;
      });
    }
  }
  EXPECT_EQ(right, 320);
  EXPECT_LE(server.connections(), 16);
}

TEST(HttpChatBackend, IdentityTakesTheFingerprint) {
  ScriptedServer server([](int, const std::string& request) {
    EXPECT_THAT(request, testing::StartsWith("GET /v1/models HTTP/1.1\r\n"));
    return http(
        200,
        R"({"data": [{"id": "other", "fingerprint": "x"}, {"id": "m", "fingerprint": "abc"}]})");
  });
  EXPECT_EQ(client(server)->identity()["server"], "abc");
  ScriptedServer without([](int, const std::string&) { return http(404, "{}"); });
  EXPECT_EQ(client(without)->identity()["server"], nullptr);
}

// What is cached has its thinking cut off: two markers keep two texts of one answer.
TEST(HttpChatBackend, TheEndOfThinkingIsPartOfTheCachesKey) {
  ScriptedServer server([](int, const std::string&) { return http(404, "{}"); });
  const test::TempDirectory directory;
  std::vector<std::string> keys;
  for (const char* marker : {"", "</think>", "</other>"}) {
    HttpBackendOptions options;
    options.url = server.url("/v1/chat/completions");
    options.model = "m";
    options.think_end_token = marker;
    const AnswerCache cache(directory / "cache", make_http_chat_backend(options)->identity());
    const std::string key = cache.key(kRequest);
    EXPECT_THAT(keys, testing::Not(testing::Contains(key))) << marker;
    keys.push_back(key);
  }
}

TEST(HttpChatBackend, HttpsTrustsWhatItIsToldTo) {
  const test::TempDirectory directory;
  const struct {
    const char* name;  // of the certificate
    bool verifies;
    bool knows;  // the certificate, by ca_cert_path
    bool answers;
  } rows[] = {{"localhost", true, true, true},
              {"localhost", true, false, false},
              {"elsewhere.test", true, true, false},
              {"elsewhere.test", false, false, true}};
  for (const auto& row : rows) {
    SSL_CTX* tls = server::test::make_tls(row.name, directory / "cert.pem");
    const server::test::LoopbackServer server(
        [](const std::string&, const auto& write) {
          write(http(200, R"({"data": [{"id": "m", "fingerprint": "abc"}]})"));
        },
        tls);
    HttpBackendOptions options;
    options.url = server.url("/v1/chat/completions", "localhost");
    options.model = "m";
    options.verify_certificate = row.verifies;
    if (row.knows) options.ca_cert_path = (directory / "cert.pem").string();
    EXPECT_EQ(make_http_chat_backend(options)->identity()["server"],
              row.answers ? Json("abc") : Json(nullptr))
        << row.name << row.verifies << row.knows;
    SSL_CTX_free(tls);
  }
}

TEST(HttpChatBackend, WaitsOfTheHarness) {
  const long expected[] = {1000, 1000, 2000, 4000, 8000, 10'000, 10'000};
  for (int made = 1; made <= 7; ++made)
    EXPECT_EQ(harness_retry_wait(made).count(), expected[made - 1]);
  EXPECT_EQ(harness_retry_wait(1000).count(), 10'000);
}

TEST(HttpUrl, Parse) {
  const HttpUrl url = HttpUrl::parse("https://[::1]:8443/v1/x?y#z");
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.host + " " + url.port + " " + url.target, "::1 8443 /v1/x?y");
  EXPECT_EQ(url.host_header(), "[::1]:8443");
  EXPECT_EQ(HttpUrl::parse("http://h").target, "/");
  EXPECT_EQ(HttpUrl::parse("http://h").host_header(), "h");
  for (const char* bad :
       {"", "h:80", "ftp://h", "http://", "http://h:", "http://h:99999", "http://h:x",
        "http://[::1", "http://u@h", "http://h/a b", "http://h/\r\nX: y"}) {
    EXPECT_THROW(HttpUrl::parse(bad), UsageError) << bad;
  }
}

}  // namespace
}  // namespace quern
