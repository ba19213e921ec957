// The routes of the server: which request means what, and which answer it gets.
// Must never block the server's thread: rendering and tokenizing run on a small pool of its own.
// Proved by tests/server/api_test.cc over real sockets with a scripted generator.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/chat_response.h"
#include "quern/server/chat_service.h"
#include "quern/server/http_server.h"

namespace quern::server {

struct ApiOptions {
  std::vector<std::string> api_keys;  // none: open
  std::string root_path;              // --root-path: before every path, behind a proxy
  std::string root;                   // the checkpoint's path, shown by /v1/models
  std::string version;
  std::string fingerprint;  // checkpoint and options that decide answers, shown by /v1/models
  ChatWriterOptions writer;
  bool force_include_usage = false;
  Json tokenizer_info;  // body of /tokenizer_info; null: there is no such route
  std::map<std::string, std::string> cache_config;  // labels of vllm:cache_config_info
  bool disable_docs = false;                        // no /openapi.json
  bool store_responses = false;  // /v1/responses keeps answers for later requests
  int preparing_threads = 2;
  int image_threads = 2;  // that decode pictures
};

// `service` outlives it.
class Api {
 public:
  Api(ChatService& service, ApiOptions options);
  ~Api();  // stop()

  // Waits for what its pools still compute and takes no more: afterwards nothing of it reaches the
  // HTTP server, whose suspended handlers may go.
  void stop();

  // The handler of an HttpServer.
  boost::asio::awaitable<void> handle(HttpExchange& exchange);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::server
