// The output file of one shard: written by places, durable and complete before it gets its name.
// Must never be written by two processes at once, nor leave anything under its final name that is
// not whole. Proved by tests/quantize/resume_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "quern/checkpoint/safetensors.h"

namespace quern {

// NAME.part, locked, until commit(). Used by one thread at a time. Written pages are sent to the
// disk early and then dropped from the page cache, so that neither a flood of dirty pages builds up
// nor anything of others is evicted.
class ShardFile {
 public:
  // Throws when another process is writing the same shard.
  ShardFile(std::filesystem::path path, const SafetensorsLayout& layout);
  ShardFile(const ShardFile&) = delete;
  ShardFile& operator=(const ShardFile&) = delete;
  ~ShardFile();  // removes the part file if it was not committed

  // Bytes at an offset of the file; each byte of the data is written once.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // What was written, for a hash of bytes that were not written in their order.
  void read_at(std::uint64_t offset, std::span<std::byte> bytes) const;
  // All bytes must have been written: fsync, rename, fsync of the directory.
  void commit();

 private:
  void note_dirty(std::uint64_t begin, std::uint64_t end);
  void write_back();

  std::filesystem::path path_;
  std::filesystem::path part_;
  int fd_ = -1;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t written_ = 0;
  struct Run {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  std::vector<Run> dirty_;  // written, not yet sent to the disk
  std::vector<Run> sent_;   // to be waited for and dropped next
  std::uint64_t dirty_bytes_ = 0;
};

// Makes names in a directory durable.
void sync_directory(const std::filesystem::path& directory);

}  // namespace quern
