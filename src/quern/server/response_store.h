// Responses that a later request may refer to.
// Must never hold more than its bounds: the oldest goes first.
// Proved by tests/server/responses_test.cc.
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>

#include "quern/base/json.h"

namespace quern::server {

// Thread-safe.
class ResponseStore {
 public:
  // A store of no entries keeps nothing.
  ResponseStore(std::size_t max_entries, std::size_t max_bytes)
      : max_entries_(max_entries), max_bytes_(max_bytes) {}

  // `messages`: the conversation, the answer included. `bytes`: what both cost about.
  void add(const std::string& id, Json response, Json messages, std::size_t bytes);
  // null when there is none.
  Json response(const std::string& id) const;
  Json messages(const std::string& id) const;

 private:
  struct Entry {
    Json response;
    Json messages;
    std::size_t bytes = 0;
  };

  const std::size_t max_entries_;
  const std::size_t max_bytes_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;
  std::deque<std::string> order_;
  std::size_t bytes_ = 0;
};

}  // namespace quern::server
