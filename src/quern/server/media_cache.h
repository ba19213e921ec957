// Prepared media of past requests by the names that clients gave them (`uuid`), so that a later
// request may leave the data out. Must never hold more bytes than its capacity.
// Proved by tests/server/image_inputs_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "quern/engine/request.h"

namespace quern::server {

// A run of placeholders with what stands before it; offsets are set when the prompt is known.
struct MediaPiece {
  std::vector<std::int32_t> text;  // tokens
  engine::ImageInput image;
};

// A picture (one piece) or a video (one piece a temporal patch), shared by all who show it.
struct PreparedMedia {
  bool video = false;
  std::vector<MediaPiece> pieces;
  std::size_t bytes = 0;  // of its patches
  std::int64_t tokens = 0;
};

// Thread-safe; what is looked at longest ago goes first.
class MediaCache {
 public:
  explicit MediaCache(std::size_t capacity_bytes) : capacity_(capacity_bytes) {}

  std::optional<PreparedMedia> find(const std::string& key) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return std::nullopt;
    order_.splice(order_.end(), order_, found->second);
    return found->second->second;
  }

  void put(const std::string& key, const PreparedMedia& media) {
    const std::lock_guard lock(mutex_);
    if (const auto found = entries_.find(key); found != entries_.end()) drop(found->second);
    if (media.bytes > capacity_) return;
    while (used_ + media.bytes > capacity_) drop(order_.begin());
    used_ += media.bytes;
    entries_[key] = order_.insert(order_.end(), {key, media});
  }

  // Makes room for others; false when nothing is left.
  bool drop_oldest() {
    const std::lock_guard lock(mutex_);
    if (order_.empty()) return false;
    drop(order_.begin());
    return true;
  }

 private:
  using Order = std::list<std::pair<std::string, PreparedMedia>>;

  void drop(Order::iterator entry) {
    used_ -= entry->second.bytes;
    entries_.erase(entry->first);
    order_.erase(entry);
  }

  const std::size_t capacity_;
  std::mutex mutex_;
  Order order_;  // oldest first
  std::unordered_map<std::string, Order::iterator> entries_;
  std::size_t used_ = 0;
};

}  // namespace quern::server
