// What surrounds every answer, whatever the route: CORS headers, X-Request-Id, a line in the access
// log. Must never look into a body. Proved by tests/server/front_test.cc.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/server/http_server.h"

namespace quern::server {

// Browsers' rules, as Starlette's CORSMiddleware applies them. "*" is all.
struct CorsOptions {
  std::vector<std::string> origins{"*"};
  std::vector<std::string> methods{"*"};
  std::vector<std::string> headers{"*"};
  bool credentials = false;
};

struct FrontOptions {
  CorsOptions cors;
  bool request_id_headers = false;       // --enable-request-id-headers
  bool access_log = false;               // a line a request
  std::vector<std::string> quiet_paths;  // without that line
};

class Front {
 public:
  Front(FrontOptions options, HttpHandler handler);

  boost::asio::awaitable<void> handle(HttpExchange& exchange) const;

 private:
  FrontOptions options_;
  HttpHandler handler_;
};

// Headers of an answer to a request with the Origin `origin`; empty when it is not allowed.
std::vector<std::pair<std::string, std::string>> cors_headers(const CorsOptions& options,
                                                              const HttpRequest& request);
// The answer to the question that a browser asks before such a request.
HttpResponse cors_preflight(const CorsOptions& options, const HttpRequest& request);

// The client's X-Request-Id if it is printable and short, else "".
std::string request_id_header(const HttpRequest& request);

}  // namespace quern::server
