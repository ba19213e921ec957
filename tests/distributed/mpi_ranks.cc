// The operations of the MPI communicator on random data, and what happens to ranks that hang or
// die; run under mpirun by CTest. Must never pass when an operation was not compared.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "quern/base/error.h"
#include "quern/distributed/communicator.h"

namespace quern {
namespace {

using Bytes = std::vector<std::byte>;

// What rank `rank` brings to round `round`.
Bytes random_bytes(int rank, int round, std::size_t size) {
  std::mt19937 random(static_cast<std::uint32_t>(rank * 1000 + round));
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

void check_round(Communicator& comm, int round) {
  const int n = comm.size();
  const std::size_t size = round == 0 ? 0 : std::size_t{1} << (2 * round);  // up to 64 KiB
  Bytes all(size * static_cast<std::size_t>(n));
  Bytes expected;
  for (int r = 0; r < n; ++r) append(expected, random_bytes(r, round, size));
  comm.all_gather(random_bytes(comm.rank(), round, size), all);
  QUERN_CHECK(all == expected, "all_gather");

  Bytes at_root(comm.rank() == n - 1 ? expected.size() : 0);
  comm.gather(n - 1, random_bytes(comm.rank(), round, size), at_root);
  QUERN_CHECK(comm.rank() != n - 1 || at_root == expected, "gather");

  std::vector<std::size_t> counts;
  expected.clear();
  for (int r = 0; r < n; ++r) {
    counts.push_back(size * static_cast<std::size_t>(r % 3));
    append(expected, random_bytes(r, round, counts.back()));
  }
  all.assign(expected.size(), std::byte{0});
  comm.all_gather_v(random_bytes(comm.rank(), round, counts[static_cast<std::size_t>(comm.rank())]),
                    counts, all);
  QUERN_CHECK(all == expected, "all_gather_v");

  // Rank a sends size * ((a + b) % 3) bytes to rank b.
  const auto part = [&](int from, int to) {
    return random_bytes(from * 64 + to, round, size * static_cast<std::size_t>((from + to) % 3));
  };
  Bytes send;
  std::vector<std::size_t> send_counts, receive_counts;
  expected.clear();
  for (int r = 0; r < n; ++r) {
    append(send, part(comm.rank(), r));
    send_counts.push_back(part(comm.rank(), r).size());
    append(expected, part(r, comm.rank()));
    receive_counts.push_back(part(r, comm.rank()).size());
  }
  all.assign(expected.size(), std::byte{0});
  comm.all_to_all_v(send, send_counts, all, receive_counts);
  QUERN_CHECK(all == expected, "all_to_all_v");

  for (int root = 0; root < n; ++root) {
    Bytes bytes = random_bytes(comm.rank(), round, size);
    comm.broadcast(root, bytes);
    QUERN_CHECK(bytes == random_bytes(root, round, size), "broadcast");
  }

  std::vector<std::int64_t> low{comm.rank() - 5, 7}, high = low, sum = low;
  comm.all_reduce(Reduction::kMin, low);
  comm.all_reduce(Reduction::kMax, high);
  comm.all_reduce(Reduction::kSum, sum);
  QUERN_CHECK(low == std::vector<std::int64_t>({-5, 7}) &&
                  high == std::vector<std::int64_t>({n - 6, 7}) &&
                  sum == std::vector<std::int64_t>({n * (n - 1) / 2 - 5 * n, 7 * n}),
              "all_reduce");
  comm.barrier();
}

int run(const std::string& mode, int size) {
  MpiOptions options;
  options.spin = false;
  options.max_piece_bytes = 100;  // smaller and larger messages come up
  if (mode != "operations") options.timeout = std::chrono::seconds(1);
  const auto comm = make_mpi_communicator(options, size);
  QUERN_CHECK(comm->size() == size);
  if (mode == "operations") {
    for (int round = 0; round < 9; ++round) check_round(*comm, round);
    comm->finish();
    if (comm->rank() == 0) std::printf("all operations are right\n");
    return 0;
  }
  comm->barrier();
  if (comm->rank() == comm->size() - 1) {
    if (mode == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
    if (mode == "stop") ::raise(SIGSTOP);
    if (mode == "die") ::raise(SIGKILL);
  }
  try {
    comm->barrier();
  } catch (const Error& error) {
    comm->abort(error.what());
  }
  return 0;
}

}  // namespace
}  // namespace quern

// mpi_ranks operations|hang|stop|die SIZE
int main(int argc, char** argv) {
  QUERN_CHECK(argc == 3);
  try {
    return quern::run(argv[1], std::atoi(argv[2]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
