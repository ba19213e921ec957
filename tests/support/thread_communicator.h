// Ranks as threads of one process, so that a test sees all of them. Each rank makes the same calls.
// Must never be faster at the price of checks: sizes that differ between ranks fail.
// Proved by use in tests/model/parallel_test.cc.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "quern/base/error.h"
#include "quern/distributed/communicator.h"

namespace quern::test {

class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : size_(size), calls_(static_cast<std::size_t>(size)) {}

  // Runs fn(communicator) on a thread a rank.
  void run(const std::function<void(Communicator&)>& fn) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([this, rank, &fn] {
        Member member(*this, rank);
        fn(member);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  struct Call {
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    std::vector<std::size_t> counts;
    std::vector<std::int64_t> values;
  };

  class Member final : public Communicator {
   public:
    Member(ThreadRanks& ranks, int rank) : Communicator(rank, ranks.size_), ranks_(ranks) {}
    void set_timeout(std::chrono::milliseconds) override {}
    void finish() override {}
    void abort(const std::string&) override { std::abort(); }

   private:
    Call& call(int rank) { return ranks_.calls_[static_cast<std::size_t>(rank)]; }
    void arrive() { ranks_.meet(); }
    // All ranks show what they have, read, and go on together.
    template <typename Fn>
    void together(Call shown, Fn&& read) {
      call(rank()) = std::move(shown);
      arrive();
      read();
      arrive();
    }

    void do_all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
      together({mine.data(), mine.size(), {}, {}}, [&] {
        for (int r = 0; r < size(); ++r) {
          QUERN_CHECK(call(r).bytes == mine.size(), "rank {}: {}, rank {}: {}", r, call(r).bytes,
                      rank(), mine.size());
          std::copy_n(call(r).data, mine.size(),
                      all.begin() + static_cast<std::ptrdiff_t>(mine.size()) * r);
        }
      });
    }
    void do_all_gather_v(std::span<const std::byte> mine, std::span<const std::size_t> counts,
                         std::span<std::byte> all) override {
      together({mine.data(), mine.size(), {}, {}}, [&] {
        auto* to = all.data();
        for (int r = 0; r < size(); ++r) {
          QUERN_CHECK(call(r).bytes == counts[static_cast<std::size_t>(r)]);
          to = std::copy_n(call(r).data, call(r).bytes, to);
        }
      });
    }
    void do_gather(int root, std::span<const std::byte> mine, std::span<std::byte> all) override {
      together({mine.data(), mine.size(), {}, {}}, [&] {
        if (rank() != root) return;
        for (int r = 0; r < size(); ++r) {
          QUERN_CHECK(call(r).bytes == mine.size(), "rank {}: {}, rank {}: {}", r, call(r).bytes,
                      rank(), mine.size());
          std::copy_n(call(r).data, mine.size(),
                      all.begin() + static_cast<std::ptrdiff_t>(mine.size()) * r);
        }
      });
    }
    void do_all_to_all_v(std::span<const std::byte> send, std::span<const std::size_t> send_counts,
                         std::span<std::byte> receive,
                         std::span<const std::size_t> receive_counts) override {
      together({send.data(), send.size(), {send_counts.begin(), send_counts.end()}, {}}, [&] {
        auto* to = receive.data();
        for (int r = 0; r < size(); ++r) {
          const Call& from = call(r);
          std::size_t offset = 0;
          for (int i = 0; i < rank(); ++i) offset += from.counts[static_cast<std::size_t>(i)];
          QUERN_CHECK(from.counts[static_cast<std::size_t>(rank())] ==
                      receive_counts[static_cast<std::size_t>(r)]);
          to = std::copy_n(from.data + offset, from.counts[static_cast<std::size_t>(rank())], to);
        }
      });
    }
    void do_all_reduce(Reduction reduction, std::span<std::int64_t> values) override {
      together({nullptr, 0, {}, {values.begin(), values.end()}}, [&] {
        for (std::size_t i = 0; i < values.size(); ++i) {
          std::int64_t result = call(0).values[i];
          for (int r = 1; r < size(); ++r) {
            const std::int64_t other = call(r).values[i];
            result = reduction == Reduction::kSum   ? result + other
                     : reduction == Reduction::kMin ? std::min(result, other)
                                                    : std::max(result, other);
          }
          values[i] = result;
        }
      });
    }
    void do_broadcast(int root, std::span<std::byte> bytes) override {
      together({bytes.data(), bytes.size(), {}, {}}, [&] {
        QUERN_CHECK(call(root).bytes == bytes.size());
        if (rank() != root) std::copy_n(call(root).data, bytes.size(), bytes.data());
      });
    }
    void do_barrier() override { arrive(); }

    ThreadRanks& ranks_;
  };

  // Returns when all ranks are here.
  void meet() {
    std::unique_lock lock(mutex_);
    const std::uint64_t meeting = meetings_;
    if (++here_ == size_) {
      here_ = 0;
      ++meetings_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return meetings_ != meeting; });
  }

  int size_;
  std::vector<Call> calls_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t meetings_ = 0;
  int here_ = 0;
};

}  // namespace quern::test
