// What the processes (ranks) of one model say to each other: every rank makes the same calls in the
// same order. Must never wait for ever: a call that does not end within the deadline is an Error.
// Proved by tests/distributed/mpi_ranks.cc (run under mpirun) and
// tests/distributed/communicator_test.cc.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace quern {

// What this rank has put into collective operations and got from other ranks.
struct Traffic {
  std::uint64_t operations = 0;
  std::uint64_t sent_bytes = 0;      // its own part, counted once however many ranks get it
  std::uint64_t received_bytes = 0;  // from other ranks

  friend bool operator==(const Traffic&, const Traffic&) = default;
};

enum class Reduction : std::uint8_t { kMin, kMax, kSum };

// One thread drives it. Buffers are host memory and do not overlap; sizes agree on all ranks. Once
// a call has thrown, only abort() is left.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const Traffic& traffic() const { return traffic_; }

  // all = the ranks' `mine` one behind the other, of equal size.
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all);
  // The same with `counts` bytes of each rank.
  void all_gather_v(std::span<const std::byte> mine, std::span<const std::size_t> counts,
                    std::span<std::byte> all);
  // Only `root` gets all; elsewhere `all` may be empty.
  void gather(int root, std::span<const std::byte> mine, std::span<std::byte> all);
  // The next send_counts[r] bytes of `send` go to rank r; `receive` holds what came from rank 0, 1,
  // ..., receive_counts bytes each.
  void all_to_all_v(std::span<const std::byte> send, std::span<const std::size_t> send_counts,
                    std::span<std::byte> receive, std::span<const std::size_t> receive_counts);
  // Each value becomes that of the ranks' values.
  void all_reduce(Reduction reduction, std::span<std::int64_t> values);
  void broadcast(int root, std::span<std::byte> bytes);
  // Whether all ranks have this value.
  bool agree(std::int64_t value);
  // Ends when all ranks have come.
  void barrier();

  // Of every later call.
  virtual void set_timeout(std::chrono::milliseconds timeout) = 0;
  // All ranks are done: nothing may be called any more.
  virtual void finish() = 0;
  // Ends all ranks, this one first, with `reason` in the log.
  [[noreturn]] virtual void abort(const std::string& reason) = 0;

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

  virtual void do_all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  virtual void do_all_gather_v(std::span<const std::byte> mine, std::span<const std::size_t> counts,
                               std::span<std::byte> all) = 0;
  virtual void do_gather(int root, std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  virtual void do_all_to_all_v(std::span<const std::byte> send,
                               std::span<const std::size_t> send_counts,
                               std::span<std::byte> receive,
                               std::span<const std::size_t> receive_counts) = 0;
  virtual void do_all_reduce(Reduction reduction, std::span<std::int64_t> values) = 0;
  virtual void do_broadcast(int root, std::span<std::byte> bytes) = 0;
  virtual void do_barrier() = 0;

 private:
  void count(std::size_t sent, std::size_t received);

  int rank_;
  int size_;
  Traffic traffic_;
};

// One process alone.
std::unique_ptr<Communicator> make_single_communicator();

// Whether this build has MPI.
bool mpi_available();

struct MpiOptions {
  std::chrono::milliseconds timeout = std::chrono::minutes(5);  // of one call
  bool spin = true;  // before waiting gives the core away; false where ranks share cores
  // Longer broadcasts and all-gathers go in pieces: MPI counts with int.
  std::size_t max_piece_bytes = std::size_t{1} << 30;
};

// Joins the processes that mpirun or srun has started, once in a process. `expected_size` 0: any
// number. Throws where this build has no MPI or the launcher and MPI disagree.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options, int expected_size);

}  // namespace quern
