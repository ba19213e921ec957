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
  int max_look_ups = 128;                   // under way or waiting; those given up count until then
  std::string ca_file;                      // PEM; "" = the system's certificates
  // The addresses of a host name, none when it is unknown. May block; must not throw. Tests bring
  // their own.
  std::function<std::vector<boost::asio::ip::address>(const std::string& host)> resolve;
};

class MediaHttp {
 public:
  // `blocking` is where names are looked up: nothing else should wait there, a name may take long.
  MediaHttp(MediaHttpOptions options, boost::asio::any_io_executor blocking);
  ~MediaHttp();

  // The body that the URL leads to. Runs on one thread at a time. `before_reading` is told how many
  // bytes the body has, or may have when its header does not say, and may throw. Throws ApiError:
  // 422 when the remote side refuses, 429 when too many names are looked up, 400 for everything
  // else.
  using BeforeReading = std::function<void(std::size_t bytes)>;
  boost::asio::awaitable<std::string> fetch(std::string url,
                                            BeforeReading before_reading = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::server
