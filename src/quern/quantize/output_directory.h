// The output directory around the shards: may it be written, what is copied, what comes last.
// Must never make a directory loadable (config.json) before all of it is there.
// Proved by tests/quantize/pipeline_test.cc and tests/quantize/resume_test.cc.
#pragma once

#include <cstdint>

#include "quern/quantize/manifest.h"
#include "quern/quantize/plan.h"

namespace quern {

// Throws when the output directory is the source, lies in it or around it, or holds something else
// than an earlier run (which run_plan() goes on with). With `overwrite` the old shards, index,
// config.json and the record of the run are removed first.
void prepare_output_directory(const QuantizeOptions& options);

// Everything that decides about the bytes of the output; two runs mix only if it is the same.
Json job_of(const QuantizePlan& plan, const QuantizeOptions& options);

// Throws when the file system has no room for `bytes` more.
void check_free_space(const std::filesystem::path& output_dir, std::uint64_t bytes);

// config.json is there.
bool is_complete(const std::filesystem::path& output_dir);

// What a loader needs, of a directory that is not whole.
void remove_index_and_config(const std::filesystem::path& output_dir);

// The other files of the source, `report` unless empty, the index, and at last config.json.
void finish_output_directory(const QuantizePlan& plan, const QuantizeOptions& options,
                             const Manifest& manifest, const std::string& report);

}  // namespace quern
