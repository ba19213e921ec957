// Runs a plan: reads shards by ranges, quantizes on several threads, writes each output file in one
// pass; goes on where an earlier run of the same job stopped; shares the shards with other ranks.
// Must never need memory that grows with a tensor or a shard. Proved by
// tests/quantize/pipeline_test.cc and tests/quantize/resume_test.cc.
#pragma once

#include <cstdint>
#include <functional>

#include "quern/quantize/output_directory.h"
#include "quern/quantize/plan.h"
#include "quern/quantize/report.h"

namespace quern {

struct QuantizeReport {
  std::size_t shards = 0;             // written by this run
  std::size_t skipped_shards = 0;     // done before
  std::size_t missing_shards = 0;     // left to other ranks; 0 when the directory is complete
  std::size_t quantized_tensors = 0;  // of the whole plan
  std::size_t copied_tensors = 0;
  std::uint64_t source_bytes = 0;  // of the shards of this run
  std::uint64_t output_bytes = 0;  // of the whole plan
  double seconds = 0;
  QualityReport quality;  // when the directory is complete and options.report
};

// Writes the output directory, which prepare_output_directory() has accepted; shows progress on
// stderr. `poll` is called often by the calling thread and may throw to stop the run, which a later
// one goes on with.
QuantizeReport run_plan(const QuantizePlan& plan, const QuantizeOptions& options,
                        const std::function<void()>& poll = nullptr);

}  // namespace quern
