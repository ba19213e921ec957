// One shard, from source file to output file, in pieces of bounded size.
// Must never hold a whole tensor; reads a tensor twice only where its kernel needs a scan.
// Proved by tests/quantize/pipeline_test.cc.
#pragma once

#include "quern/base/progress.h"
#include "quern/quantize/plan.h"

namespace quern {

struct StreamLimits {
  std::size_t threads = 1;
  std::uint64_t memory_budget_bytes = 256ull << 20;
};

// Writes `output`; it appears under its name when complete. An Inf or NaN in a weight to be
// quantized is an Error naming tensor and index.
void stream_shard(const PlannedShard& shard, const std::filesystem::path& output,
                  const StreamLimits& limits, Progress& progress);

}  // namespace quern
