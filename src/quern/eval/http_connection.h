// One HTTP or HTTPS connection that is kept alive between requests, with a deadline for each.
// Must never wait beyond the deadline or read more than the limits allow.
// Proved by tests/eval/http_chat_backend_test.cc.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quern {

struct HttpUrl {
  bool tls = false;
  std::string host;  // without brackets
  std::string port;
  std::string target;  // path and query

  // "http[s]://host[:port][/path]"; anything else throws UsageError.
  static HttpUrl parse(const std::string& url);
  std::string host_header() const;
};

struct HttpTls {
  bool verify_certificate = true;
  std::string ca_cert_path;  // empty: the system's
};

struct HttpResponse {
  int status = 0;
  std::string body;
};

// Used by one thread at a time. Any failure throws Error and closes the connection; the next
// request opens a new one.
class HttpConnection {
 public:
  HttpConnection(HttpUrl url, HttpTls tls);
  ~HttpConnection();

  // `method` is "GET" or "POST". A kept connection that the server has closed meanwhile is replaced
  // once, within the same deadline. `on_piece` sees the body as it comes, cut anywhere.
  HttpResponse request(const std::string& method, const std::string& target,
                       const std::string& body,
                       const std::vector<std::pair<std::string, std::string>>& headers,
                       std::chrono::milliseconds timeout,
                       const std::function<void(std::string_view)>& on_piece = {});

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
