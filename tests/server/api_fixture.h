// The API over real sockets, with a scripted generator behind it.
// Must never end before the generator is quiet: its outputs post to the server's executor.
// Proved by use.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/api.h"
#include "quern/server/front.h"
#include "tests/server/raw_client.h"
#include "tests/server/scripted_generator.h"

namespace quern::server {

class ApiFixture : public testing::Test {
 protected:
  // Facts of the fixture's model; a test may change them before start().
  ApiFixture() {
    chat_.model_names = {"tiny", "alias"};
    chat_.max_model_len = 500;
    chat_.vocab_size = tokenizer_.vocab_size();
    chat_.parse_reasoning = chat_.parse_tools = true;
    chat_.max_in_flight = 100;
    options_.fingerprint = "f";
    options_.version = "1.2";
    http_.host = "127.0.0.1";
    http_.port = 0;
  }
  void start() {
    service_ = std::make_unique<ChatService>(
        tokenizer_, ChatTemplate::load(QUERN_SOURCE_DIR "/models/m3-tiny"), generator_, chat_);
    server_ = std::make_unique<HttpServer>(http_, [this](HttpExchange& exchange) {
      last_exchange_ = &exchange;
      return front_ ? front_->handle(exchange) : api_->handle(exchange);
    });
    api_ = std::make_unique<Api>(*service_, options_);
    thread_ = std::thread([this] { server_->run(); });
  }
  ~ApiFixture() override {
    if (server_ == nullptr) return;
    server_->stop();
    thread_.join();
    while (generator_.running > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    api_.reset();
    server_.reset();
  }

  // The whole answer to one request on its own connection.
  std::string exchange(std::string bytes) {
    const auto head = bytes.find("\r\n");
    bytes.insert(head, "\r\nConnection: close");
    RawClient client(server_->port());
    client.send(bytes);
    return client.read_all();
  }
  // "HTTP/1.1 200" and the body.
  std::pair<std::string, std::string> ask(std::string bytes) {
    const std::string answer = exchange(std::move(bytes));
    const auto body = answer.find("\r\n\r\n");
    return {answer.substr(0, std::min<std::size_t>(12, answer.size())),
            body == std::string::npos ? "" : answer.substr(body + 4)};
  }
  static std::string get(const std::string& path) {
    return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n";
  }
  // The lines of a chunked body, without the chunks' sizes.
  static std::string unchunk(const std::string& body) {
    std::string text;
    for (std::size_t at = 0; at < body.size();) {
      const std::size_t end = body.find("\r\n", at);
      if (end == std::string::npos) break;
      const std::size_t size = std::stoul(body.substr(at, end - at), nullptr, 16);
      text += body.substr(end + 2, size);
      at = end + 2 + size + 2;
    }
    return text;
  }
  static void eventually(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition() && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    EXPECT_TRUE(condition());
  }

  Tokenizer tokenizer_ = Tokenizer::load(QUERN_SOURCE_DIR "/models/m3-tiny");
  ChatServiceOptions chat_;
  ApiOptions options_;
  HttpOptions http_;
  ScriptedGenerator generator_;
  std::unique_ptr<ChatService> service_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<Front> front_;           // a test may set it
  HttpExchange* last_exchange_ = nullptr;  // server's thread
  std::thread thread_;
};

}  // namespace quern::server
