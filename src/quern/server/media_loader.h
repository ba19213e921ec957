// Brings in the media that requests name by URL: data:, http(s): and file:, under the operator's
// rules. Must never block the caller of load(), nor hold more bytes than its budget.
// Proved by tests/server/media_loader_test.cc.
#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "quern/server/memory_budget.h"

namespace boost::asio::ip {
class address;
}

namespace quern::server {

struct MediaOptions {
  std::string allowed_local_media_path;            // "" = no file: URLs
  std::vector<std::string> allowed_media_domains;  // empty = any host with a public address
  std::size_t max_item_bytes = 32 << 20;
  std::size_t max_request_bytes = 128 << 20;  // all items of one request
  int max_redirects = 5;
  std::chrono::milliseconds fetch_timeout{5000};
  int max_fetches = 64;  // http(s) at once
  int max_fetches_a_request = 4;
  std::string ca_file;  // PEM; "" = the system's certificates
  // As MediaHttpOptions::resolve.
  std::function<std::vector<boost::asio::ip::address>(const std::string& host)> resolve;
};

// What was loaded; the share counts it against the budget.
struct Media {
  std::string bytes;
  MemoryBudget::Share share;
};

// Thread-safe. Three kinds of threads of its own: one for sockets, which never blocks, a few for
// what blocks or computes (files, base64), and a few for names, whose servers may be slow.
class MediaLoader {
 public:
  // Throws Error when the options name what does not exist.
  MediaLoader(const MediaOptions& options, std::shared_ptr<MemoryBudget> budget);
  ~MediaLoader();

  // Calls `done` once from a thread of the loader: with the media in the order of the URLs, or with
  // the ApiError of the first one that failed. Not after stop(). What is returned ends it early
  // (from any thread, at any time): fetches are dropped, `done` gets an ApiError (499).
  using Done = std::function<void(std::exception_ptr error, std::vector<Media> media)>;
  using Cancel = std::function<void()>;
  Cancel load(std::vector<std::string> urls, Done done);
  // The same, waiting.
  std::vector<Media> load(std::vector<std::string> urls);

  // Ends everything: what is at work is dropped without a call of its `done`. Idempotent; load()
  // throws ApiError (503) afterwards. Not while another thread calls load().
  void stop();

 private:
  struct Runtime;
  std::shared_ptr<Runtime> runtime_;  // shared with calls of Cancel while they last
};

}  // namespace quern::server
