// Files: whole reads with a limit, read-only mappings, and writes that appear only when complete.
// Must never leave a half-written file under its final name.
// Proved by tests/base/file_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace quern {

// The whole file; throws when it is larger than `limit_bytes`.
std::string read_file(const std::filesystem::path& path, std::size_t limit_bytes);

// A file mapped read-only. Movable; views into data() live as long as the mapping.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> data() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Writes PATH.part front to back; commit() syncs it and renames it to PATH. Without commit() the part
// file is removed by the destructor.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  std::uint64_t written() const { return written_; }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path part_;
  int fd_ = -1;
  std::uint64_t written_ = 0;
};

// AtomicFile in one call.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace quern
