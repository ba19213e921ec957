// The one progress bar: rate and time left on a terminal, plain lines every few seconds otherwise.
// Must never write to stdout.
// Proved by tests/base/progress_test.cc.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

namespace quern {

enum class ProgressUnit { kItems, kBytes };

// Thread-safe. `total` 0 means unknown. The bar is finished by the destructor or finish().
class Progress {
 public:
  Progress(std::string label, std::uint64_t total, ProgressUnit unit, std::FILE* out = stderr);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  void add(std::uint64_t amount);
  // A short text behind the numbers (current file, running score).
  void set_note(std::string note);
  void finish();

  // One line of the bar for `done` after `seconds`; exposed for the test.
  static std::string line(const std::string& label, std::uint64_t done, std::uint64_t total,
                          double seconds, ProgressUnit unit, const std::string& note);

 private:
  void draw_locked(bool last);

  std::mutex mutex_;
  std::string label_;
  std::string note_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  ProgressUnit unit_;
  std::FILE* out_;
  bool terminal_;
  bool finished_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_draw_;
};

// "1.5 GB", "12 B": decimal units.
std::string bytes_text(double bytes);

}  // namespace quern
