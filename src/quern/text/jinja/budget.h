// What one rendering may still use: steps, bytes of its values, stack. Values charge the budget of
// the rendering that runs on their thread, so that no operation can forget to. Must never charge
// work behind the work: a template would have been given it already.
// Proved by tests/text/jinja_limits_test.cc.
#pragma once

#include <cstddef>

#include "quern/text/jinja.h"

namespace quern::jinja {

class Budget;
// Of the rendering on this thread; null outside of one (the parser's literals cost nothing).
inline constinit thread_local Budget* current_budget = nullptr;

class Budget {
 public:
  // Becomes this thread's budget for its lifetime; values made in it must not outlive it.
  explicit Budget(const RenderOptions& options);
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;
  ~Budget() { current_budget = outer_; }

  void step(std::size_t count);
  // Refuses a string that would become too large.
  void check_size(std::size_t bytes) const;
  void hold(std::size_t bytes);
  void release(std::size_t bytes) noexcept { held_bytes_ -= bytes; }

 private:
  const RenderOptions& options_;
  Budget* outer_;
  const char* stack_start_;
  std::size_t steps_ = 0;
  std::size_t held_bytes_ = 0;
};

// Work on `count` items (for text: see steps_of).
inline void spend(std::size_t count) {
  if (current_budget != nullptr) current_budget->step(count);
}
inline void check_text_size(std::size_t bytes) {
  if (current_budget != nullptr) current_budget->check_size(bytes);
}

// Steps for text that is copied or compared, and for text that is looked at by characters.
inline std::size_t copy_steps(std::size_t bytes) { return bytes / 64; }
inline std::size_t scan_steps(std::size_t bytes) { return bytes / 8; }

// Bytes that an object owns, counted while it lives.
class Held {
 public:
  explicit Held(std::size_t bytes) : budget_(current_budget) { grow(bytes); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (budget_ != nullptr) budget_->release(bytes_);
  }
  void grow(std::size_t bytes) {
    if (budget_ == nullptr) return;
    budget_->hold(bytes);
    bytes_ += bytes;
  }

 private:
  Budget* budget_;
  std::size_t bytes_ = 0;
};

}  // namespace quern::jinja
