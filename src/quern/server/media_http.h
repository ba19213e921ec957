// Fetches media over http and https as coroutines.
// Must never connect to an address that was not judged, nor read more bytes or longer than allowed.
// Proved by tests/server/media_http_test.cc (servers on loopback, a resolver that lies).
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace quern::server {

struct MediaHttpOptions {
  // When not empty, these hosts only (also after a redirect), and they may have any address.
  std::vector<std::string> allowed_domains;
  std::size_t max_bytes = 32 << 20;
  int max_redirects = 5;
  std::chrono::milliseconds timeout{5000};  // of one URL, its redirects included
  std::string ca_file;                      // PEM; "" = the system's certificates
  // The addresses of a host name, none when it is unknown. May block; must not throw. Tests bring
  // their own.
  std::function<std::vector<boost::asio::ip::address>(const std::string& host)> resolve;
};

class MediaHttp {
 public:
  // `blocking` is where names are looked up.
  MediaHttp(MediaHttpOptions options, boost::asio::any_io_executor blocking);
  ~MediaHttp();

  // The body that the URL leads to. Runs on one thread at a time. Throws ApiError: 422 when the
  // remote side refuses, 400 for everything else.
  boost::asio::awaitable<std::string> fetch(std::string url) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::server
