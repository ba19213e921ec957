// One connection: reads requests one after the other and hands each to the handler.
// Must never read the next request before the answer to this one is written (pipelining stays
// safe). Proved by tests/server/http_server_test.cc.
#pragma once

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <functional>
#include <memory>
#include <string>

#include "quern/server/http_server.h"

namespace quern::server {

// Lives on the server's thread. `tls` may be null: plain text. `on_close` is called once, at the
// end.
class HttpSession {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;

  static std::shared_ptr<HttpSession> start(Socket socket, std::string client,
                                            const HttpOptions& options, const HttpHandler& handler,
                                            boost::asio::ssl::context* tls,
                                            std::function<void(HttpSession*)> on_close);
  virtual ~HttpSession() = default;

  // Closes now when no request is at work, else after its answer.
  virtual void drain() = 0;
  // Closes now.
  virtual void abort() = 0;
};

}  // namespace quern::server
