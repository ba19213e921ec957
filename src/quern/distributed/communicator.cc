// See communicator.h.
#include "quern/distributed/communicator.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>

#include "quern/base/error.h"
#include "quern/base/log.h"

namespace quern {
namespace {

std::size_t sum_of(std::span<const std::size_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::size_t{0});
}

class SingleCommunicator final : public Communicator {
 public:
  SingleCommunicator() : Communicator(0, 1) {}
  void set_timeout(std::chrono::milliseconds) override {}
  void finish() override {}
  void abort(const std::string& reason) override {
    spdlog::critical("{}", reason);
    std::_Exit(1);
  }

 private:
  void do_all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    std::ranges::copy(mine, all.begin());
  }
  void do_all_gather_v(std::span<const std::byte> mine, std::span<const std::size_t>,
                       std::span<std::byte> all) override {
    std::ranges::copy(mine, all.begin());
  }
  void do_gather(int, std::span<const std::byte> mine, std::span<std::byte> all) override {
    std::ranges::copy(mine, all.begin());
  }
  void do_all_to_all_v(std::span<const std::byte> send, std::span<const std::size_t>,
                       std::span<std::byte> receive, std::span<const std::size_t>) override {
    std::ranges::copy(send, receive.begin());
  }
  void do_all_reduce(Reduction, std::span<std::int64_t>) override {}
  void do_broadcast(int, std::span<std::byte>) override {}
  void do_barrier() override {}
};

}  // namespace

void Communicator::count(std::size_t sent, std::size_t received) {
  ++traffic_.operations;
  traffic_.sent_bytes += sent;
  traffic_.received_bytes += received;
}

void Communicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  QUERN_CHECK(all.size() == mine.size() * static_cast<std::size_t>(size_));
  count(mine.size(), all.size() - mine.size());
  do_all_gather(mine, all);
}

void Communicator::all_gather_v(std::span<const std::byte> mine,
                                std::span<const std::size_t> counts, std::span<std::byte> all) {
  QUERN_CHECK(counts.size() == static_cast<std::size_t>(size_) && sum_of(counts) == all.size() &&
              counts[static_cast<std::size_t>(rank_)] == mine.size());
  count(mine.size(), all.size() - mine.size());
  do_all_gather_v(mine, counts, all);
}

void Communicator::gather(int root, std::span<const std::byte> mine, std::span<std::byte> all) {
  QUERN_CHECK(rank_ != root || all.size() == mine.size() * static_cast<std::size_t>(size_));
  count(rank_ == root ? 0 : mine.size(), rank_ == root ? all.size() - mine.size() : 0);
  do_gather(root, mine, all);
}

void Communicator::all_to_all_v(std::span<const std::byte> send,
                                std::span<const std::size_t> send_counts,
                                std::span<std::byte> receive,
                                std::span<const std::size_t> receive_counts) {
  const auto self = static_cast<std::size_t>(rank_);
  QUERN_CHECK(send_counts.size() == static_cast<std::size_t>(size_) &&
              receive_counts.size() == send_counts.size() && sum_of(send_counts) == send.size() &&
              sum_of(receive_counts) == receive.size() &&
              send_counts[self] == receive_counts[self]);
  count(send.size() - send_counts[self], receive.size() - receive_counts[self]);
  do_all_to_all_v(send, send_counts, receive, receive_counts);
}

void Communicator::all_reduce(Reduction reduction, std::span<std::int64_t> values) {
  count(values.size_bytes(), values.size_bytes() * static_cast<std::size_t>(size_ - 1));
  do_all_reduce(reduction, values);
}

void Communicator::broadcast(int root, std::span<std::byte> bytes) {
  QUERN_CHECK(root >= 0 && root < size_);
  count(rank_ == root ? bytes.size() : 0, rank_ == root ? 0 : bytes.size());
  do_broadcast(root, bytes);
}

bool Communicator::agree(std::int64_t value) {
  std::array<std::int64_t, 2> range{value, ~value};  // ~ turns the order around
  all_reduce(Reduction::kMin, range);
  return range[0] == ~range[1];
}

void Communicator::barrier() {
  count(0, 0);
  do_barrier();
}

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace quern
