// One shard, from source files to output file, in pieces of bounded size.
// Must never read a byte of the source twice but for kernels that scan first.
// Proved by tests/quantize/pipeline_test.cc.
#pragma once

#include <functional>

#include "quern/base/progress.h"
#include "quern/quantize/manifest.h"
#include "quern/quantize/plan.h"
#include "quern/quantize/shard_file.h"

namespace quern {

struct StreamLimits {
  std::size_t threads = 1;
  std::uint64_t memory_budget_bytes = 256ull << 20;
};

struct StreamHooks {
  Progress* progress = nullptr;
  // Called by the calling thread after each piece; may throw to stop.
  std::function<void()> poll;
};

// Fills `output`, which is left to be committed, and returns its record but for the sources. With
// `statistics` quantized tensors are measured. An Inf or NaN in a weight to be quantized is an
// Error naming tensor and index.
ShardRecord stream_shard(const PlannedShard& shard, ShardFile& output, const StreamLimits& limits,
                         bool statistics, const StreamHooks& hooks);

}  // namespace quern
