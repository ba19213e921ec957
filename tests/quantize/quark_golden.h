// What the tests that compare with Quark's output share.
// Must never hash anything but the bytes it is given.
// Proved by use.
#pragma once

#include <fmt/format.h>
#include <xxhash.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/plan.h"

namespace quern::test {

inline std::string hash_of(std::string_view data) {
  return fmt::format("{:016x}", XXH3_64bits(data.data(), data.size()));
}

inline std::string file_hash(const std::filesystem::path& path) {
  return hash_of(read_file(path, std::size_t{1} << 30));
}

// A golden file of tests/golden, by name.
inline Json read_golden(const std::string& name) {
  return parse_json(read_file(QUERN_SOURCE_DIR "/tests/golden/" + name, 1 << 24), name);
}

inline void quantize(const QuantizeOptions& options) {
  const QuantizePlan plan = make_plan(options);
  prepare_output_directory(options);
  run_plan(plan, options);
}

}  // namespace quern::test
