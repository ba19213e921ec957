// Reads a finished output directory again and compares it with the record of its run.
// Must never take a missing file or tensor for a correct one.
// Proved by tests/quantize/resume_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

namespace quern {

struct VerifyReport {
  std::size_t shards = 0;
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
};

// From the disk, not from the page cache. Throws an Error that lists what is wrong: a missing or
// shorter file, a tensor with other bytes, an index or config.json that is not the run's.
VerifyReport verify_output(const std::filesystem::path& output_dir,
                           const std::function<void()>& poll = nullptr);

}  // namespace quern
