// The compute team: the threads that share the parallel regions of one forward step.
// Must never run blocking work (files, network, tokenizing): that belongs to a task executor.
// Proved by tests/base/thread_team_test.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace quern {

// A fixed set of threads; the calling thread is member 0. One caller at a time. Workers spin
// briefly between regions, then park. The functions passed in must not throw.
class ThreadTeam {
 public:
  // 0 = one per available core.
  explicit ThreadTeam(int num_threads = 0);
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;
  ~ThreadTeam();

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs fn(thread) once on each member and returns when all are done. No allocation.
  template <typename Fn>
  void run(Fn&& fn) {
    using Callable = std::remove_reference_t<Fn>;
    run_erased([](void* context, int thread) { (*static_cast<Callable*>(context))(thread); },
               const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Calls fn(begin, end, thread) for pieces of [0, count) of at most `grain`, handed out in order.
  // Which thread gets which piece is not defined, so results must not depend on it.
  template <typename Fn>
  void parallel_for(std::int64_t count, std::int64_t grain, Fn&& fn) {
    if (count <= 0) return;
    if (size() == 1 || count <= grain) {
      for (std::int64_t begin = 0; begin < count; begin += grain) {
        fn(begin, begin + grain < count ? begin + grain : count, 0);
      }
      return;
    }
    std::atomic<std::int64_t> next{0};
    run([&](int thread) {
      for (;;) {
        const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        fn(begin, begin + grain < count ? begin + grain : count, thread);
      }
    });
  }

 private:
  using Entry = void (*)(void*, int);
  void run_erased(Entry entry, void* context);
  void worker(int thread);
  void stop();

  Entry entry_ = nullptr;
  void* context_ = nullptr;
  std::atomic<std::uint32_t> epoch_{0};
  std::atomic<std::uint32_t> pending_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace quern
