// Items worked on by several threads, their results taken in order by the caller, in bounded
// memory. Must never hold more than `slots` items between start of work and end of taking. Proved
// by tests/quantize/ordered_pipeline_test.cc (also under TSan).
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "quern/base/error.h"

namespace quern {

// Calls work(item, slot) on `threads` threads and take(item, slot) on the calling thread for item
// 0, 1, ... `slot` = item % slots: whoever runs owns the slot's buffers. The first exception in
// item order is rethrown after all threads have stopped.
template <typename Work, typename Take>
void run_ordered(std::size_t items, std::size_t slots, std::size_t threads, const Work& work,
                 const Take& take) {
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t started = 0;
  std::size_t taken = 0;
  bool stop = false;
  std::vector<char> done(slots, 0);
  std::vector<std::exception_ptr> errors(slots);

  const auto worker = [&] {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stop || started == items || started < taken + slots; });
      if (stop || started == items) return;
      const std::size_t item = started++;
      const std::size_t slot = item % slots;
      lock.unlock();
      std::exception_ptr error;
      try {
        work(item, slot);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      errors[slot] = error;
      done[slot] = 1;
      changed.notify_all();
    }
  };
  std::vector<std::jthread> team;
  try {
    for (std::size_t i = 0; i < std::min({threads, items, slots}); ++i) team.emplace_back(worker);
  } catch (const std::system_error& error) {
    {
      const std::lock_guard lock(mutex);  // those that run would wait for ever
      stop = true;
    }
    changed.notify_all();
    throw Error("cannot start {} threads: {}", threads, error.what());
  }

  std::exception_ptr failure;
  for (std::size_t item = 0; item < items && !failure; ++item) {
    const std::size_t slot = item % slots;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done[slot] != 0; });
    done[slot] = 0;
    failure = errors[slot];
    lock.unlock();
    try {
      if (!failure) take(item, slot);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    ++taken;
    stop = failure != nullptr;
    changed.notify_all();
  }
  team.clear();  // joins
  if (failure) std::rethrow_exception(failure);
}

}  // namespace quern
