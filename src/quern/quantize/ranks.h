// Which process of a job quantizes which shards; no messages, only the same plan on every rank.
// Must never give a shard to two ranks or to none.
// Proved by tests/quantize/ranks_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace quern {

struct Rank {
  int rank = 0;
  int world_size = 1;
};

// What the launcher left in the environment: Open MPI (OMPI_COMM_WORLD_RANK, _SIZE), MPICH and
// Intel MPI (PMI_RANK, PMI_SIZE), Slurm (SLURM_PROCID, SLURM_NTASKS); rank 0 of 1 without any.
// Throws when a pair is incomplete or makes no sense. `variable` reads one variable.
Rank rank_from_environment(const std::function<std::optional<std::string>(const char*)>& variable);

// The rank of each shard: the largest first, each to the rank with the least so far.
std::vector<int> assign_shards(std::span<const std::uint64_t> shard_bytes, int world_size);

}  // namespace quern
