// Runs a plan: reads shards by ranges, quantizes on several threads, writes each output file front
// to back. Must never need memory that grows with a tensor or a shard, and writes config.json last,
// so that an unfinished directory does not load. Proved by tests/quantize/pipeline_test.cc.
#pragma once

#include <cstdint>

#include "quern/quantize/plan.h"

namespace quern {

struct QuantizeReport {
  std::size_t shards = 0;
  std::size_t quantized_tensors = 0;
  std::size_t copied_tensors = 0;
  std::uint64_t source_bytes = 0;
  std::uint64_t output_bytes = 0;
  double seconds = 0;
};

// Throws when the output directory is the source, lies in it or around it, or is not empty and
// `overwrite` is off. With `overwrite` the old shards, index and config.json are removed first.
void prepare_output_directory(const QuantizeOptions& options);

// Writes the whole output directory; shows progress on stderr.
QuantizeReport run_plan(const QuantizePlan& plan, const QuantizeOptions& options);

}  // namespace quern
