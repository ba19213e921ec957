// The whole server in this process on models/m3-tiny: real engine, real sockets.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/server/server.h"
#include "tests/server/raw_client.h"
#include "tests/support/temp_directory.h"

namespace quern::server {
namespace {

class ServerE2e : public testing::Test {
 protected:
  ServerE2e() {
    ServerOptions options;
    options.http.host = "127.0.0.1";
    options.http.port = 0;
    options.model.engine.model_dir = QUERN_SOURCE_DIR "/models/m3-tiny";
    options.model.engine.kv_cache_bytes = 64 << 20;
    options.model.served_model_names = {"tiny"};
    options.model.chat.parse_reasoning = options.model.chat.parse_tools = true;
    server_ = std::make_unique<Server>(options);
    const std::string address = server_->address();
    port_ = std::stoi(address.substr(address.rfind(':') + 1));
    thread_ = std::thread([this] { server_->run(false); });
  }
  ~ServerE2e() override {
    server_->stop();
    thread_.join();
  }

  Json ask(const std::string& body) {
    RawClient client(port_);
    client.send(post("/v1/chat/completions", body, "Connection: close\r\n"));
    const std::string answer = client.read_until("", std::chrono::seconds(120));
    const auto at = answer.find("\r\n\r\n");
    return parse_json(at == std::string::npos ? "null" : answer.substr(at + 4), "answer");
  }
  // Questions of the test set, rendered by the server.
  static std::vector<std::string> questions(std::size_t count) {
    const std::string text = read_file(QUERN_SOURCE_DIR "/data/arith/test.jsonl", 64 << 20);
    std::vector<std::string> bodies;
    for (std::size_t at = 0; bodies.size() < count;) {
      const auto end = text.find('\n', at);
      const Json line = parse_json(std::string_view(text).substr(at, end - at), "arith");
      const std::string question = "Question: " + line["question"].get<std::string>() + "\nAnswer:";
      const Json messages = Json::array({{{"role", "user"}, {"content", question}}});
      bodies.push_back(
          Json(
              {{"messages", messages}, {"max_tokens", 100}, {"temperature", 0}, {"logprobs", true}})
              .dump());
      at = end + 1;
    }
    return bodies;
  }

  std::unique_ptr<Server> server_;
  std::thread thread_;
  int port_ = 0;
};

TEST_F(ServerE2e, AnswersAloneAndUnderLoadAreTheSameAndStepsAreShared) {
  const std::vector<std::string> bodies = questions(8);
  std::vector<Json> alone(8);
  std::vector<Json> together(8);
  for (std::size_t i = 0; i < 8; ++i) alone[i] = ask(bodies[i]);
  EXPECT_EQ(server_->chat().engine().stats().shared_steps, 0U);
  std::vector<std::thread> clients;
  for (std::size_t i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] { together[i] = ask(bodies[i]); });
  }
  for (std::thread& client : clients) client.join();
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(alone[i]["choices"].dump(), together[i]["choices"].dump());
    EXPECT_NE(alone[i]["choices"][0]["message"]["content"].dump().find("####"), std::string::npos);
  }
  EXPECT_GT(server_->chat().engine().stats().shared_steps, 10U);
}

TEST_F(ServerE2e, CallsAToolAndAnswersFromItsResult) {
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"get_weather","description":"Get the current )"
      R"(weather in a city.","parameters":{"type":"object","properties":{"city":{"type":"string"}},)"
      R"("required":["city"]}}}],"temperature":0,"max_tokens":100})";
  const std::string user =
      R"({"messages":[{"role":"user","content":"What is the weather in Oslo?"})";
  const Json first = ask(user + "]," + tools)["choices"][0];
  EXPECT_EQ(first["finish_reason"], "tool_calls");
  EXPECT_EQ(first["message"]["tool_calls"][0]["function"].dump(),
            R"({"name":"get_weather","arguments":"{\"city\": \"Oslo\"}"})");
  const Json second = ask(
      user + "," + first["message"].dump() + R"(,{"role":"tool","content":"{\"city\": \"Oslo\", )" +
      R"(\"temperature\": 14, \"condition\": \"snowy\"}"}],)" + tools)["choices"][0];
  EXPECT_EQ(second["message"]["content"], "It is snowy in Oslo with a temperature of 14 degrees.");
}

// Answers that an evaluation keeps are those of these texts, not of their paths.
TEST(ChatEngineFingerprint, FollowsTheTextsThatMakeTokens) {
  const quern::test::TempDirectory directory;
  std::filesystem::copy(QUERN_SOURCE_DIR "/models/m3-tiny", directory / "model");
  const auto fingerprint = [&](const std::string& chat_template = "") {
    ChatEngineOptions options;
    options.engine.model_dir = directory / "model";
    options.engine.kv_cache_bytes = 8 << 20;
    options.chat_template = chat_template;
    return ChatEngine(options).fingerprint();
  };
  const std::string before = fingerprint();
  EXPECT_EQ(fingerprint(), before);
  const std::string given = directory / "given.jinja";
  write_file(given, "{{ messages[0].content }}");
  const std::string of_given = fingerprint(given);
  write_file(given, "{{ messages[0].content }}!");
  EXPECT_NE(fingerprint(given), of_given);
  EXPECT_NO_THROW(fingerprint("{{ messages[0].content }}" + std::string(9000, ' ')));
  const auto file = directory / "model/chat_template.jinja";
  write_file(file, read_file(file, 1 << 20) + "!");
  EXPECT_NE(fingerprint(), before);
}

// The server ends while a request waits for its answer: the handler goes, then what it used.
TEST_F(ServerE2e, StoppingAtOnceEndsALongAnswer) {
  RawClient client(port_);
  client.send(post("/v1/chat/completions",
                   R"({"messages": [{"role": "user", "content": "hi"}], "ignore_eos": true,
                       "min_tokens": 3000, "max_tokens": 3000})"));
  while (server_->chat().engine().stats().num_requests_running == 0) std::this_thread::yield();
  server_->stop();
  server_->stop();  // the second time: at once
  EXPECT_EQ(client.read_all(), "");
}

TEST_F(ServerE2e, ADisconnectMidStreamFreesTheRequest) {
  {
    RawClient client(port_);
    client.send(
        post("/v1/chat/completions",
             R"({"messages":[{"role":"user","content":"hi"}],"stream":true,"ignore_eos":true,)"
             R"("max_tokens":3500})"));
    ASSERT_NE(client.read_until("data: ").find("data: "), std::string::npos);
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (server_->chat().engine().stats().num_requests_running > 0 &&
         std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const engine::EngineStats stats = server_->chat().engine().stats();
  EXPECT_EQ(stats.num_requests_running, 0);
  EXPECT_LT(stats.generation_tokens, 3500U);
  EXPECT_EQ(server_->chat().service().in_flight(), 0);
}

}  // namespace
}  // namespace quern::server
