// A rank: one of the processes that share a model. Rank 0 takes the server's messages and gives
// them to the others; all run them.
// Must never outlive the server or wait for a rank that is gone.
// Proved by tests/apps/parallel_program_test.cc.
#pragma once

#include <filesystem>

#include "quern/base/json.h"
#include "quern/engine/engine.h"

namespace quern::engine {

// What the launcher (mpirun, srun) said about this process.
struct RankPlace {
  int rank = 0;
  int size = 1;
};

// The options that a rank needs, and back.
Json rank_setup(const EngineOptions& options);
EngineOptions read_rank_setup(const Json& setup);

// Serves until the server ends it. `socket` is used by rank 0. Returns the exit status; a failure
// ends all ranks.
int run_rank(const RankPlace& place, const std::filesystem::path& socket, int timeout_seconds);

}  // namespace quern::engine
