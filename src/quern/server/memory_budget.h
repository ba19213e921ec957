// Counts the bytes that the media of live requests take, so that there is an end to them.
// Must never be exceeded; what is taken is given back when its holder goes.
// Proved by tests/server/media_loader_test.cc.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

namespace quern::server {

// Thread-safe. Shared: a share may outlive everything else.
class MemoryBudget : public std::enable_shared_from_this<MemoryBudget> {
 public:
  explicit MemoryBudget(std::size_t limit_bytes) : limit_(limit_bytes) {}

  using Share = std::shared_ptr<const void>;
  // Null when that many bytes are not left.
  Share take(std::size_t bytes) {
    if (used_.fetch_add(bytes) + bytes > limit_) {
      used_.fetch_sub(bytes);
      return nullptr;
    }
    return Share(this, [self = shared_from_this(), bytes](const void*) { self->used_ -= bytes; });
  }
  std::size_t used() const { return used_; }

 private:
  const std::size_t limit_;
  std::atomic<std::size_t> used_{0};
};

}  // namespace quern::server
