// A file read by ranges from several threads, without keeping the page cache of others away.
// Must never take a shorter file for a whole one.
// Proved by tests/quantize/pipeline_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>

namespace quern {

class RangeReader {
 public:
  explicit RangeReader(const std::filesystem::path& path);
  RangeReader(const RangeReader&) = delete;
  RangeReader& operator=(const RangeReader&) = delete;
  ~RangeReader();

  // Fills `out` from `offset` on; what lies far enough behind is dropped from the page cache, the
  // rest at the end. Measured beside O_DIRECT (docs/verification/quantize.md): equal from the disk,
  // and a file that is in the page cache is read at the speed of memory.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  void drop_behind(std::uint64_t offset) const;

  std::filesystem::path path_;
  int fd_;
  mutable std::mutex mutex_;
  mutable std::uint64_t kept_from_ = 0;  // bytes before it were dropped
};

}  // namespace quern
