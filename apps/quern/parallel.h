// What this process is in a job that mpirun or srun has started.
// Must never be asked by the library: it takes its place as an argument.
// Proved by tests/apps/parallel_program_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/quantize/ranks.h"

namespace quern::cli {

// Rank 0 of 1 outside such a job.
Rank launched_rank();

// Whether the command line, typed under mpirun or srun, makes this process a rank that serves rank
// 0's command: `words` without the program's name. Not of `eval`, which knows where its model is
// only when its options (and --config) are read.
bool joins_rank_zero(const std::vector<std::string>& words);

// Serves rank 0's command to its end; the exit status.
int serve_rank_zero();

}  // namespace quern::cli
