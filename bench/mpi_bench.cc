// How long does a collective call of a decode step take, by the bytes of a rank? The constants of
// docs/scaling.md.
//
//   mpirun -n N mpi_bench
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "quern/distributed/communicator.h"

namespace {

using namespace quern;
using Clock = std::chrono::steady_clock;

// Seconds of one call: the best of several rounds, so that other programs on the machine count
// little.
template <typename Fn>
double time_call(Communicator& comm, int calls, Fn&& fn) {
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    comm.barrier();
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) fn();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count() / calls);
  }
  return best;
}

}  // namespace

int main() {
  const auto comm = make_mpi_communicator({}, 0);
  const auto ranks = static_cast<std::size_t>(comm->size());
  if (comm->rank() == 0) fmt::print("{} ranks\n{:>14} {:>14}\n", ranks, "bytes of a rank", "us");
  for (const std::size_t bytes : {64UL, 1536UL, 8192UL, 65536UL, 1048576UL}) {
    std::vector<std::byte> mine(bytes), all(bytes * ranks);
    const double seconds =
        time_call(*comm, bytes > 65536 ? 50 : 500, [&] { comm->all_gather(mine, all); });
    if (comm->rank() == 0) fmt::print("{:>14} {:>14.1f}\n", bytes, seconds * 1e6);
  }
  comm->finish();
}
