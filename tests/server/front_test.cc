// CORS, X-Request-Id and the access log around the routes.
#include "quern/server/front.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

HttpRequest from(const std::string& origin) {
  HttpRequest request;
  request.headers = {{"origin", origin}};
  return request;
}

TEST(Cors, HeadersFollowTheOperatorsList) {
  using Headers = std::vector<std::pair<std::string, std::string>>;
  CorsOptions some;
  some.origins = {"http://a"};
  CorsOptions credentials;
  credentials.credentials = true;
  const struct {
    const char* what;
    CorsOptions options;
    const char* origin;
    Headers expected;
  } rows[] = {
      {"no browser", {}, "", {}},
      {"all", {}, "http://a", {{"Access-Control-Allow-Origin", "*"}}},
      {"listed",
       some,
       "http://a",
       {{"Access-Control-Allow-Origin", "http://a"}, {"Vary", "Origin"}}},
      {"not listed", some, "http://b", {}},
      {"credentials want the name",
       credentials,
       "http://a",
       {{"Access-Control-Allow-Origin", "http://a"},
        {"Access-Control-Allow-Credentials", "true"},
        {"Vary", "Origin"}}},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(cors_headers(row.options, from(row.origin)), row.expected) << row.what;
  }
}

TEST(Cors, PreflightSaysWhatIsAllowed) {
  HttpRequest request = from("http://a");
  request.headers.emplace_back("access-control-request-method", "POST");
  request.headers.emplace_back("access-control-request-headers", "X-A, authorization");
  EXPECT_EQ(cors_preflight({}, request).status, 200);
  CorsOptions narrow;
  narrow.headers = {"Authorization"};
  EXPECT_EQ(cors_preflight(narrow, request).body, "Disallowed CORS headers");
  narrow.headers = {"authorization", "x-a"};
  EXPECT_EQ(cors_preflight(narrow, request).status, 200);
  narrow.methods = {"GET"};
  EXPECT_EQ(cors_preflight(narrow, request).body, "Disallowed CORS method");
  narrow.origins = {"http://b"};
  EXPECT_EQ(cors_preflight(narrow, request).status, 400);
}

TEST(RequestId, OnlyPrintableShortOnes) {
  const auto id = [](const std::string& text) {
    HttpRequest request;
    request.headers = {{"x-request-id", text}};
    return request_id_header(request);
  };
  EXPECT_EQ(id("abc-1"), "abc-1");
  EXPECT_EQ(id("a b"), "");
  EXPECT_EQ(id("a\xFF"), "");
  EXPECT_EQ(id(std::string(257, 'a')), "");
}

class FrontApi : public ApiFixture {};

TEST_F(FrontApi, TheHeadersIdIsTheAnswersId) {
  start();
  const std::string chat = R"({"messages":[{"role":"user","content":"a"}],"request_id":"body"})";
  EXPECT_NE(ask(post("/v1/chat/completions", chat)).second.find(R"("id":"chatcmpl-body")"),
            std::string::npos);
  EXPECT_NE(ask(post("/v1/chat/completions", chat, "X-Request-Id: head\r\n"))
                .second.find(R"("id":"chatcmpl-head")"),
            std::string::npos);
  EXPECT_NE(ask(post("/v1/completions", R"({"prompt":"a"})", "X-Request-Id: head\r\n"))
                .second.find(R"("id":"cmpl-head")"),
            std::string::npos);
}

TEST_F(FrontApi, AnswersCarryTheHeaders) {
  FrontOptions front;
  front.request_id_headers = true;
  front_ = std::make_unique<Front>(
      front, [this](HttpExchange& exchange) { return api_->handle(exchange); });
  start();
  const std::string answer =
      exchange("GET /health HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nX-Request-Id: r1\r\n\r\n");
  EXPECT_NE(answer.find("Access-Control-Allow-Origin: *\r\n"), std::string::npos) << answer;
  EXPECT_NE(answer.find("X-Request-Id: r1\r\n"), std::string::npos) << answer;
  const std::string preflight = exchange(
      "OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n"
      "Access-Control-Request-Method: GET\r\n\r\n");
  EXPECT_TRUE(preflight.starts_with("HTTP/1.1 200")) << preflight;
  const std::string stream = exchange(
      post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"a"}],"stream":true})",
           "Origin: http://a\r\n"));
  EXPECT_NE(stream.find("Access-Control-Allow-Origin: *\r\n"), std::string::npos) << stream;
}

TEST_F(FrontApi, RootPathIsCutOff) {
  options_.root_path = "/llm";
  options_.api_keys = {"k"};
  start();
  EXPECT_EQ(ask(get("/llm/health")).first, "HTTP/1.1 200");
  EXPECT_EQ(ask(get("/health")).first, "HTTP/1.1 200");
  EXPECT_EQ(ask(get("/llm/v1/models")).first, "HTTP/1.1 401");
  EXPECT_EQ(ask(get("/llmv1/models")).first, "HTTP/1.1 404");
}

}  // namespace
}  // namespace quern::server
