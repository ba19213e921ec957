// Communicator over MPI: every call is the non-blocking operation and a loop that tests it until
// the deadline. See communicator.h.
#include "quern/base/error.h"
#include "quern/distributed/communicator.h"

#if defined(QUERN_HAVE_MPI)

#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "quern/base/log.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

// MPI_Abort itself may hang behind a dead link: the process ends after so many seconds all the
// same.
constexpr unsigned kAbortSeconds = 5;

// A call of a step follows the last within microseconds to milliseconds; what takes longer is idle
// time or another rank's long work, and the core is given away in longer and longer pauses.
constexpr int kSpins = 2000;
constexpr auto kYieldUntil = std::chrono::milliseconds(2);
constexpr auto kShortPause = std::chrono::microseconds(50);
constexpr auto kShortUntil = std::chrono::milliseconds(20);
constexpr auto kLongPause = std::chrono::milliseconds(1);

std::string error_text(int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return {text, static_cast<std::size_t>(length)};
}

void check(int code, const char* what) {
  if (code != MPI_SUCCESS) throw Error("MPI {}: {}", what, error_text(code));
}

int to_count(std::size_t bytes) {
  constexpr std::size_t kMost = std::numeric_limits<int>::max();
  if (bytes > kMost) throw Error("a message of {} bytes to other ranks, at most {}", bytes, kMost);
  return static_cast<int>(bytes);
}

MPI_Op operation(Reduction reduction) {
  switch (reduction) {
    case Reduction::kMin:
      return MPI_MIN;
    case Reduction::kMax:
      return MPI_MAX;
    case Reduction::kSum:
      return MPI_SUM;
  }
  QUERN_CHECK(false);
  return MPI_OP_NULL;
}

// Counts and offsets as MPI wants them.
struct Layout {
  std::vector<int> counts, offsets;

  void set(std::span<const std::size_t> sizes) {
    counts.clear();
    offsets.clear();
    std::size_t offset = 0;
    for (const std::size_t size : sizes) {
      counts.push_back(to_count(size));
      offsets.push_back(to_count(offset));
      offset += size;
    }
  }
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int rank, int size, const MpiOptions& options)
      : Communicator(rank, size), comm_(comm), options_(options) {}

  void set_timeout(std::chrono::milliseconds timeout) override { options_.timeout = timeout; }

  void finish() override {
    barrier();
    MPI_Comm_free(&comm_);
    check(MPI_Finalize(), "finalize");
  }

  void abort(const std::string& reason) override {
    spdlog::critical("rank {} of {}: {}", rank(), size(), reason);
    std::signal(SIGALRM, SIG_DFL);
    ::alarm(kAbortSeconds);
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

 private:
  void do_all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (all.size() > options_.max_piece_bytes) {
      counts_.assign(static_cast<std::size_t>(size()), mine.size());
      return broadcast_in_turn(mine, counts_, all);
    }
    const int count = to_count(mine.size());
    start(
        MPI_Iallgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, comm_, &request_),
        "all-gather");
  }

  void do_all_gather_v(std::span<const std::byte> mine, std::span<const std::size_t> counts,
                       std::span<std::byte> all) override {
    if (all.size() > options_.max_piece_bytes) return broadcast_in_turn(mine, counts, all);
    receive_.set(counts);
    start(MPI_Iallgatherv(mine.data(), to_count(mine.size()), MPI_BYTE, all.data(),
                          receive_.counts.data(), receive_.offsets.data(), MPI_BYTE, comm_,
                          &request_),
          "all-gather");
  }

  void do_gather(int root, std::span<const std::byte> mine, std::span<std::byte> all) override {
    const int count = to_count(mine.size());
    start(MPI_Igather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, root, comm_,
                      &request_),
          "gather");
  }

  void do_all_to_all_v(std::span<const std::byte> send, std::span<const std::size_t> send_counts,
                       std::span<std::byte> receive,
                       std::span<const std::size_t> receive_counts) override {
    send_.set(send_counts);
    receive_.set(receive_counts);
    start(MPI_Ialltoallv(send.data(), send_.counts.data(), send_.offsets.data(), MPI_BYTE,
                         receive.data(), receive_.counts.data(), receive_.offsets.data(), MPI_BYTE,
                         comm_, &request_),
          "all-to-all");
  }

  void do_all_reduce(Reduction reduction, std::span<std::int64_t> values) override {
    start(MPI_Iallreduce(MPI_IN_PLACE, values.data(), to_count(values.size()), MPI_INT64_T,
                         operation(reduction), comm_, &request_),
          "all-reduce");
  }

  void do_broadcast(int root, std::span<std::byte> bytes) override {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(bytes.size(), options_.max_piece_bytes));
      start(MPI_Ibcast(piece.data(), to_count(piece.size()), MPI_BYTE, root, comm_, &request_),
            "broadcast");
      bytes = bytes.subspan(piece.size());
    }
  }

  // An all-gather of any size: one rank's part after the other.
  void broadcast_in_turn(std::span<const std::byte> mine, std::span<const std::size_t> counts,
                         std::span<std::byte> all) {
    for (int root = 0; root < size(); ++root) {
      const auto part = all.first(counts[static_cast<std::size_t>(root)]);
      if (root == rank()) std::ranges::copy(mine, part.begin());
      do_broadcast(root, part);
      all = all.subspan(part.size());
    }
  }

  void do_barrier() override { start(MPI_Ibarrier(comm_, &request_), "barrier"); }

  // Waits for request_, which `code` tells of.
  void start(int code, const char* what) {
    check(code, what);
    for (int i = 0; options_.spin && i < kSpins; ++i) {
      if (done(what)) return;
    }
    const auto begin = Clock::now();
    while (!done(what)) {
      const auto waited = Clock::now() - begin;
      if (waited > options_.timeout) {
        throw Error(
            "{} did not end within {} s: another rank has died or hangs, or the network is cut",
            what, std::chrono::duration<double>(options_.timeout).count());
      }
      if (waited < kYieldUntil) {
        ::sched_yield();
      } else if (waited < kShortUntil) {
        std::this_thread::sleep_for(kShortPause);
      } else {
        std::this_thread::sleep_for(kLongPause);
      }
    }
  }

  bool done(const char* what) {
    int flag = 0;
    check(MPI_Test(&request_, &flag, MPI_STATUS_IGNORE), what);
    return flag != 0;
  }

  MPI_Comm comm_;
  MpiOptions options_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  Layout send_, receive_;
  std::vector<std::size_t> counts_;
};

}  // namespace

bool mpi_available() { return true; }

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options, int expected_size) {
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "start");
  if (provided < MPI_THREAD_FUNNELED) throw Error("MPI takes no program with threads");
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "start");
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  if (expected_size > 0 && size != expected_size) {
    throw Error(
        "the launcher started {} processes, but MPI knows {} (srun: give --mpi=pmix; mpirun: the "
        "one of the MPI that this program is linked with)",
        expected_size, size);
  }
  return std::make_unique<MpiCommunicator>(comm, rank, size, options);
}

}  // namespace quern

#else

namespace quern {

bool mpi_available() { return false; }

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions&, int) {
  throw Error(
      "this build has no MPI: install libopenmpi-dev and openmpi-bin, then configure and build "
      "again");
}

}  // namespace quern

#endif
