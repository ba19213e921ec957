// Counts the bytes that the media of live requests take, so that there is an end to them.
// Must never be exceeded; what is taken is given back when its holder goes.
// Proved by tests/server/media_loader_test.cc.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>

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
    return share_of(bytes);
  }
  std::size_t used() const { return used_; }

  // Taken for something whose size is not known yet; given back with the object.
  class Reservation {
   public:
    explicit Reservation(std::shared_ptr<MemoryBudget> budget) : budget_(std::move(budget)) {}
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    ~Reservation() { budget_->used_ -= bytes_; }

    // In place of what it holds; false, and nothing is held, when that many bytes are not left.
    bool take(std::size_t bytes) {
      budget_->used_ -= std::exchange(bytes_, 0);
      if (budget_->used_.fetch_add(bytes) + bytes > budget_->limit_) {
        budget_->used_ -= bytes;
        return false;
      }
      bytes_ = bytes;
      return true;
    }
    // The share of what it turned out to be; the rest goes back. Null when it is more than what is
    // held and is not left.
    Share keep(std::size_t bytes) {
      if (bytes > bytes_ && !take(bytes)) return nullptr;
      budget_->used_ -= bytes_ - bytes;
      bytes_ = 0;
      return budget_->share_of(bytes);
    }

   private:
    const std::shared_ptr<MemoryBudget> budget_;
    std::size_t bytes_ = 0;
  };

 private:
  // Of bytes that are counted already.
  Share share_of(std::size_t bytes) {
    return Share(this, [self = shared_from_this(), bytes](const void*) { self->used_ -= bytes; });
  }

  const std::size_t limit_;
  std::atomic<std::size_t> used_{0};
};

}  // namespace quern::server
