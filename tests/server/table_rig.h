// A server for the rows of a table: what a row says of its server, and requests as rows write them.
// Must never know what a row expects.
// Proved by use in errors_test.cc and complaints_test.cc.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quern/base/file.h"
#include "quern/engine/stop_text.h"
#include "tests/server/api_fixture.h"
#include "tests/server/media_server.h"

namespace quern::server {

class TableRig final : public ApiFixture {
 public:
  // `server`: {"api_key", "images", "parse_tools", "parse_reasoning", "stop_in_reasoning",
  // "thinking_mode", "trust_request_chat_template", "max_in_flight", "max_model_len", "fails",
  // "dead"}.
  explicit TableRig(const Json& server) {
    if (server.contains("api_key")) options_.api_keys = {server["api_key"].get<std::string>()};
    chat_.parse_tools = server.value("parse_tools", true);
    chat_.parse_reasoning = server.value("parse_reasoning", true);
    chat_.stop_in_reasoning = server.value("stop_in_reasoning", false);
    chat_.trust_request_chat_template = server.value("trust_request_chat_template", false);
    chat_.max_model_len = server.value("max_model_len", 500);
    chat_.max_in_flight = server.value("max_in_flight", 100);
    if (server.contains("thinking_mode")) {
      chat_.default_chat_template_kwargs = {{"thinking_mode", server["thinking_mode"]}};
    }
    if (server.contains("images")) take_images(server["images"].get<int>());
    if (server.contains("fails")) {
      generator_.pieces = {};
      generator_.fail = true;
    }
    generator_.is_healthy = !server.value("dead", false);
    start();
  }
  void TestBody() override {}

  ScriptedGenerator& generator() { return generator_; }

  // Status and body of the answer to {"path", "method", "headers", "body" or "raw"}.
  std::pair<int, std::string> send(const Json& row) {
    const auto path = row["path"].get<std::string>();
    const std::string headers = row.value("headers", "");
    std::string request = "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n";
    if (row.value("method", "POST") == "POST") {
      const std::string body =
          row.contains("raw") ? row["raw"].get<std::string>() : with_remote(row["body"].dump());
      request = headers.find("Content-Type") == std::string::npos
                    ? post(path, body, headers)
                    : "POST " + path + " HTTP/1.1\r\nHost: a\r\n" + headers +
                          "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    }
    const auto [status, body] = ask(request);
    return {status.size() == 12 ? std::stoi(status.substr(9)) : 0, body};
  }
  using ApiFixture::unchunk;

 private:
  void take_images(int count) {
    remote_ = std::make_unique<test::LoopbackServer>(
        [](const std::string&, const test::LoopbackServer::Write& write) {
          write("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        });
    const auto budget = std::make_shared<MemoryBudget>(1 << 30);
    ImageInputOptions images;
    images.config = vision::make_preprocess_config(PreprocessorConfig{});
    images.placeholder = "]<]image[>[";
    images.image_token = tokenizer_.token_id(images.placeholder).value();
    images.start_token = tokenizer_.token_id("]<]start of image[>[").value();
    images.end_token = tokenizer_.token_id("]<]end of image[>[").value();
    images.max_images = count;
    images.max_model_len = chat_.max_model_len;
    images.budget = budget;
    chat_.images = std::make_shared<const ImageInputs>(std::move(images));
    MediaOptions media;
    media.allowed_media_domains = {"localhost"};
    chat_.media = std::make_shared<MediaLoader>(media, budget);
  }
  std::string with_remote(std::string body) const {
    const std::string name = "{remote}";
    const std::size_t at = body.find(name);
    if (at != std::string::npos) body.replace(at, name.size(), remote_->url("", "localhost"));
    return body;
  }

  std::unique_ptr<test::LoopbackServer> remote_;
};

inline Json read_table(const std::string& name) {
  return parse_json(read_file(QUERN_SOURCE_DIR "/tests/golden/server/" + name, 1 << 20), name);
}

// Rows in the groups that share a server.
inline std::map<std::string, std::vector<Json>> by_server(const Json& rows) {
  std::map<std::string, std::vector<Json>> groups;
  for (const Json& row : rows) groups[row.value("server", Json::object()).dump()].push_back(row);
  return groups;
}

}  // namespace quern::server
