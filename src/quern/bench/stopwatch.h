// The two clocks that steps are measured by.
// Must never be used for results.
// Proved by use.
#pragma once

#include <cstdint>
#include <ctime>

namespace quern::bench {

enum class Clock : std::uint8_t {
  kWall,
  kCpu,  // of the process, a thread: what others on the machine take does not count
};

// Seconds since it was made, by the clock; `threads` of the process share the work.
class Stopwatch {
 public:
  Stopwatch(Clock clock, int threads)
      : id_(clock == Clock::kWall ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID),
        scale_(clock == Clock::kWall ? 1.0 : 1.0 / threads),
        start_(now()) {}

  double seconds() const { return (now() - start_) * scale_; }

 private:
  double now() const {
    timespec time{};
    clock_gettime(id_, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }

  clockid_t id_;
  double scale_;
  double start_;
};

}  // namespace quern::bench
