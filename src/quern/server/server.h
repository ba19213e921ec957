// The whole server: a checkpoint behind the API on a socket, from start to drained end.
// Must never exit by itself: run() returns.
// Proved by tests/server/server_e2e_test.cc.
#pragma once

#include <memory>
#include <string>

#include "quern/server/api.h"
#include "quern/server/chat_engine.h"
#include "quern/server/front.h"
#include "quern/server/http_server.h"

namespace quern::server {

struct ServerOptions {
  ChatEngineOptions model;
  ApiOptions api;  // root and fingerprint are filled in
  HttpOptions http;
  FrontOptions front;
  bool tokenizer_info = false;  // --enable-tokenizer-info-endpoint
};

class Server {
 public:
  // Binds the address first (a taken port is known before minutes of loading), then loads.
  explicit Server(ServerOptions options);
  ~Server();

  std::string address() const { return http_->address(); }
  ChatEngine& chat() { return *chat_; }

  // See HttpServer::run(). Ends after the engine has finished or aborted everything.
  void run(bool handle_signals);
  void stop() { http_->stop(); }  // from any thread

 private:
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<ChatEngine> chat_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<Front> front_;
};

}  // namespace quern::server
