// The routes over real sockets, with a scripted generator behind them.
#include "quern/server/api.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "quern/base/json.h"
#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class ApiTest : public ApiFixture {
 protected:
  void start(int max_in_flight = 100, std::vector<std::string> keys = {}) {
    chat_.max_in_flight = max_in_flight;
    options_.api_keys = std::move(keys);
    ApiFixture::start();
  }
  std::pair<std::string, std::string> chat(const std::string& fields) {
    return ask(post("/v1/chat/completions", body(fields)));
  }
  static std::string body(const std::string& fields) {
    return R"({"messages":[{"role":"user","content":"hi"}])" +
           (fields.empty() ? "" : "," + fields) + "}";
  }
};

TEST_F(ApiTest, AnswersAndErrors) {
  start();
  struct Case {
    std::string fields;
    std::string status;
    std::string text;
  };
  const Case cases[] = {
      {R"("model":"alias")", "HTTP/1.1 200", R"("content":"Hello world")"},
      {R"("model":"x")", "HTTP/1.1 404",
       R"({"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}})"},
      {R"("max_tokens":0)", "HTTP/1.1 400",
       R"_({"error":{"message":"max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)","type":"BadRequestError","param":"max_tokens","code":400}})_"},
      {R"("max_tokens":499)", "HTTP/1.1 400",
       "This model's maximum context length is 500 tokens. However, you requested 499 output "
       "tokens "
       "and your prompt contains at least 2 input tokens, for a total of at least 501 tokens."},
      {R"("temperature":3)", "HTTP/1.1 400", "temperature must be in [0, 2], got 3.0."},
      {R"("n":2,"temperature":0)", "HTTP/1.1 400",
       "n must be 1 when using greedy sampling, got 2."},
      {R"("n":0)", "HTTP/1.1 400", "n must be at least 1, got 0."},
      {R"("n":99999)", "HTTP/1.1 400", "n must be at most 16384"},
      {R"("n":101)", "HTTP/1.1 400", "makes 101 generations, but this server takes at most 100"},
      {R"("n":3)", "HTTP/1.1 200", R"("index":2)"},
      {R"("chat_template":"x")", "HTTP/1.1 400", "--trust-request-chat-template"},
      {R"("logprobs":true,"top_logprobs":21)", "HTTP/1.1 400", "max allowed: 20"},
      {R"("stop_token_ids":[999999])", "HTTP/1.1 400", "out-of-vocab"},
  };
  for (const Case& c : cases) {
    const auto [status, text] = chat(c.fields);
    EXPECT_EQ(status, c.status) << c.fields;
    EXPECT_NE(text.find(c.text), std::string::npos) << c.fields << "\n" << text;
  }
}

// A body may be tens of megabytes, a generation takes minutes.
TEST_F(ApiTest, BodiesAreNotKeptWhileTheEngineWorks) {
  start();
  std::atomic<int> kept = 0;
  generator_.on_submit = [&](const auto&) {  // on the server's thread
    kept += last_exchange_->request().body.empty() ? 0 : 1;
  };
  const std::string messages = R"("messages":[{"role":"user","content":"hi"}])";
  const std::pair<const char*, std::string> rows[] = {
      {"/v1/chat/completions", "{" + messages + "}"},
      {"/v1/completions", R"({"prompt":"hi"})"},
      {"/v1/messages", R"({"model":"tiny","max_tokens":5,)" + messages + "}"},
      {"/v1/responses", R"({"input":"hi"})"}};
  for (const auto& [path, text] : rows) {
    EXPECT_EQ(ask(post(path, text)).first, "HTTP/1.1 200") << path;
    EXPECT_EQ(kept, 0) << path;
  }
  EXPECT_EQ(generator_.submitted, 4);
}

// References of tools are followed for who parses calls only.
TEST_F(ApiTest, ToolsArePlannedWhenTheirCallsAreParsed) {
  start();
  const auto tools_of = [&](const std::string& fields) {
    return service_->plan(parse_chat_request(body(fields))).tools;
  };
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{"$defs":{"a":{"type":"string"}},)"
      R"("properties":{"x":{"$ref":"#/$defs/a"}}}}}])";
  const auto parsed = tools_of(tools);
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*parsed)[0]["function"]["parameters"]["properties"]["x"]["type"], "string");
  EXPECT_FALSE(tools_of(tools + R"(,"tool_choice":"none")"));
  EXPECT_FALSE(tools_of(R"("n":2)"));
}

TEST_F(ApiTest, OtherRoutes) {
  start();
  EXPECT_EQ(ask(get("/health")), std::pair(std::string("HTTP/1.1 200"), std::string()));
  EXPECT_EQ(ask(get("/version")).second, R"({"version":"1.2"})");
  EXPECT_EQ(ask(get("/nowhere")),
            std::pair(std::string("HTTP/1.1 404"), std::string(R"({"detail":"Not Found"})")));
  EXPECT_EQ(ask(get("/v1/chat/completions")).first, "HTTP/1.1 405");
  EXPECT_NE(ask(get("/metrics"))
                .second.find("quern:shared_steps_total{engine=\"0\",model_name=\"tiny\"} 3"),
            std::string::npos);
  const Json models = parse_json(ask(get("/v1/models")).second, "models");
  ASSERT_EQ(models["data"].size(), 2U);
  EXPECT_EQ(models["data"][1]["id"], "alias");
  EXPECT_EQ(models["data"][0]["max_model_len"], 500);
  EXPECT_EQ(models["data"][0]["fingerprint"], "f");
  EXPECT_EQ(ask("POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}").first,
            "HTTP/1.1 400");
  generator_.is_healthy = false;
  EXPECT_EQ(ask(get("/health")).first, "HTTP/1.1 503");
}

TEST_F(ApiTest, KeysProtectTheApiOnly) {
  start(100, {"secret", "other"});
  const auto models = [](const std::string& header) {
    return "GET /v1/models HTTP/1.1\r\nHost: a\r\n" + header + "\r\n";
  };
  EXPECT_EQ(ask(models("")),
            std::pair(std::string("HTTP/1.1 401"), std::string(R"({"error":"Unauthorized"})")));
  EXPECT_EQ(ask(models("Authorization: Bearer wrong!\r\n")).first, "HTTP/1.1 401");
  EXPECT_EQ(ask(models("Authorization: bEARER other\r\n")).first, "HTTP/1.1 200");
  EXPECT_EQ(ask(models("x-api-key: secret\r\n")).first, "HTTP/1.1 200");
  EXPECT_EQ(ask("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").first, "HTTP/1.1 200");
}

TEST_F(ApiTest, PriorityNeedsItsPolicy) {
  chat_.priority_scheduling = true;
  start();
  std::atomic<std::int64_t> priority = 0;
  generator_.on_submit = [&](const engine::GenerationRequest& r) { priority = r.priority; };
  EXPECT_EQ(chat(R"("priority":-7)").first, "HTTP/1.1 200");
  EXPECT_EQ(priority, -7);
}

TEST_F(ApiTest, ThinkingBudgetReachesTheEngine) {
  start();
  std::atomic<int> budget = -1;
  generator_.on_submit = [&](const engine::GenerationRequest& r) {
    budget = r.sampling.thinking_token_budget.value_or(-1);
  };
  EXPECT_EQ(chat(R"("thinking_token_budget":7)").first, "HTTP/1.1 200");
  EXPECT_EQ(budget, 7);
  EXPECT_EQ(chat("").first, "HTTP/1.1 200");
  EXPECT_EQ(budget, -1);
}

// The request's own template, with the token variables of the checkpoint; documents are there too.
TEST_F(ApiTest, ChatTemplateOfTheRequest) {
  chat_.trust_request_chat_template = true;
  start();
  std::mutex mutex;
  std::string rendered;
  generator_.on_submit = [&](const engine::GenerationRequest& r) {
    const std::lock_guard lock(mutex);
    rendered = tokenizer_.decode(r.prompt, false);
  };
  const auto prompt = [&] {
    const std::lock_guard lock(mutex);
    return rendered;
  };
  EXPECT_EQ(chat(R"("documents":[{"text":"d"}],"chat_template":)"
                 R"("{{ documents[0].text }}{% for m in messages %}[{{ m.content }}]{% endfor %}")")
                .first,
            "HTTP/1.1 200");
  EXPECT_EQ(prompt(), "d[hi]");
  EXPECT_EQ(chat(R"("chat_template_kwargs":{"chat_template":"{{ eos_token }}x"})").first,
            "HTTP/1.1 200");
  EXPECT_EQ(prompt(), "[e~[x");
  for (const char* bad :
       {"{% for %}", "{{ 1 + }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ raise('x') }}"}) {
    const auto [status, text] = chat("\"chat_template\":" + Json(bad).dump());
    EXPECT_EQ(status, "HTTP/1.1 400") << bad << text;
  }
}

TEST_F(ApiTest, TokensAsIdsByDefaultUnlessTheRequestSaysOtherwise) {
  chat_.tokens_as_ids = true;
  start();
  generator_.logprobs = true;
  EXPECT_NE(chat(R"("logprobs":true)").second.find(R"("token":"token_id:0")"), std::string::npos);
  EXPECT_EQ(chat(R"("logprobs":true,"return_tokens_as_token_ids":false)").second.find("token_id:"),
            std::string::npos);
}

TEST_F(ApiTest, TokenizerInfoOnlyWhenAskedFor) {
  start();
  EXPECT_EQ(ask(get("/tokenizer_info")).first, "HTTP/1.1 404");
  EXPECT_EQ(ask(get("/openapi.json")).second.find("tokenizer_info"), std::string::npos);
}

TEST_F(ApiTest, TokenizerInfo) {
  options_.tokenizer_info = {{"tokenizer_class", "T"}};
  start();
  EXPECT_EQ(ask(get("/tokenizer_info")).second, R"({"tokenizer_class":"T"})");
}

TEST_F(ApiTest, StreamsTheEventsInOrder) {
  generator_.pieces = {"<mm:th", "ink>why</mm:think>", "be", "cause"};
  generator_.pause = milliseconds(20);
  start();
  const auto [status, text] = chat(R"("stream":true,"stream_options":{"include_usage":true})");
  EXPECT_EQ(status, "HTTP/1.1 200");
  std::size_t at = 0;
  for (const char* part :
       {R"("delta":{"role":"assistant","content":""})", R"("delta":{"reasoning":"why"})",
        R"("content":"be)", R"("finish_reason":"stop","stop_reason":null)",
        R"("choices":[],"usage":{"prompt_tokens":)", "data: [DONE]\n\n"}) {
    at = text.find(part, at);
    ASSERT_NE(at, std::string::npos) << part << "\nin\n" << text;
  }
}

TEST_F(ApiTest, AFailureIsAnErrorBeforeTheFirstOutputAndAnEventAfterIt) {
  generator_.pieces = {};
  generator_.fail = true;
  start();
  EXPECT_EQ(chat(R"("stream":true)").first, "HTTP/1.1 500");
  generator_.pieces = {"some text"};
  generator_.pause = milliseconds(50);
  EXPECT_EQ(chat("").first, "HTTP/1.1 500");
  const auto [status, text] = chat(R"("stream":true)");
  // The two outputs may melt into one, and then nothing has been sent yet.
  EXPECT_NE(text.find(R"("message":"scripted failure")"), std::string::npos) << text;
  EXPECT_EQ(status == "HTTP/1.1 200", text.find("data: [DONE]") != std::string::npos);
}

TEST_F(ApiTest, AClientThatLeavesFreesItsRequest) {
  generator_.endless = true;
  generator_.pause = milliseconds(5);
  start();
  for (const char* fields : {"", R"("stream":true)", R"("n":3,"stream":true)"}) {
    const int expected = generator_.cancelled + (std::string(fields).find("\"n\"") == 0 ? 3 : 1);
    {
      RawClient client(server_->port());
      client.send(post("/v1/chat/completions", body(fields)));
      eventually([&] { return generator_.running > 0; });
    }
    eventually([&] { return generator_.running == 0; });
    EXPECT_EQ(generator_.cancelled, expected) << fields;
  }
}

TEST_F(ApiTest, AFullQueueSaysWhenToComeBack) {
  generator_.endless = true;
  generator_.pause = milliseconds(5);
  start(2);
  RawClient first(server_->port());
  first.send(post("/v1/chat/completions", body(R"("n":2,"stream":true)")));
  first.read_until("data: ");
  RawClient second(server_->port());
  second.send(post("/v1/chat/completions", body("")));
  const std::string refused = second.read_until("}}");
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 429")) << refused;
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  first.close();
  eventually([&] { return service_->in_flight() == 0; });
}

TEST_F(ApiTest, ManyAtOnce) {
  start(1000);
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 32; ++i) {
    clients.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) {
        const auto [status, text] = chat(i % 2 == 0 ? "" : R"("stream":true)");
        if (status == "HTTP/1.1 200" && text.find("world") != std::string::npos) ++right;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 160);
}

}  // namespace
}  // namespace quern::server
