// See shard_file.h.
#include "quern/quantize/shard_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "quern/base/error.h"

namespace quern {
namespace {

// So many written bytes are sent to the disk together.
constexpr std::uint64_t kWriteBackBytes = 32u << 20;

bool same_file(int fd, const std::filesystem::path& path) {
  struct stat open_file {
  }, named{};
  return ::fstat(fd, &open_file) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open_file.st_ino == named.st_ino && open_file.st_dev == named.st_dev;
}

// The lock goes with the process, so a killed one leaves none behind.
int open_locked(const std::filesystem::path& part) {
  for (;;) {
    const int fd = ::open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) throw_errno(fmt::format("cannot create '{}'", part.string()));
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const bool busy = errno == EWOULDBLOCK;
      ::close(fd);
      if (busy) throw Error("another process is writing '{}'", part.string());
      // A file system without locks: go on without.
      return ::open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    }
    if (same_file(fd, part)) return fd;
    ::close(fd);  // it was renamed or removed between open and lock
  }
}

}  // namespace

void sync_directory(const std::filesystem::path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw_errno(fmt::format("cannot open '{}'", directory.string()));
  const int status = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  // Some file systems cannot sync a directory and say so.
  if (status != 0 && code != EINVAL && code != EBADF) {
    errno = code;
    throw_errno(fmt::format("cannot sync '{}'", directory.string()));
  }
}

ShardFile::ShardFile(std::filesystem::path path, const SafetensorsLayout& layout)
    : path_(std::move(path)), part_(path_), file_bytes_(layout.file_bytes) {
  part_ += ".part";
  fd_ = open_locked(part_);
  if (fd_ < 0 || ::ftruncate(fd_, 0) != 0) {
    throw_errno(fmt::format("cannot create '{}'", part_.string()));
  }
  write_at(0, std::as_bytes(std::span(layout.prefix)));
}

ShardFile::~ShardFile() {
  if (fd_ < 0) return;
  ::unlink(part_.c_str());
  ::close(fd_);
}

void ShardFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  QUERN_CHECK(offset <= file_bytes_ && bytes.size() <= file_bytes_ - offset);
  const std::uint64_t begin = offset;
  for (std::span<const std::byte> rest = bytes; !rest.empty();) {
    const ssize_t put = ::pwrite(fd_, rest.data(), rest.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_errno(fmt::format("cannot write '{}'", part_.string()));
    rest = rest.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  written_ += bytes.size();
  if (bytes.empty()) return;
  note_dirty(begin, begin + bytes.size());
  if (dirty_bytes_ >= kWriteBackBytes) write_back();
}

// Codes and scales of a tensor grow as two runs.
void ShardFile::note_dirty(std::uint64_t begin, std::uint64_t end) {
  dirty_bytes_ += end - begin;
  for (Run& run : dirty_) {
    if (run.end != begin) continue;
    run.end = end;
    return;
  }
  dirty_.push_back({begin, end});
}

// A wait that reports an error takes it from the file: fsync() would not report it again. Where
// ranges cannot be synced, fsync() does all.
void ShardFile::write_back() {
  const auto sync = [&](const Run& run, unsigned flags) {
    const int result = ::sync_file_range(fd_, static_cast<off_t>(run.begin),
                                         static_cast<off_t>(run.end - run.begin), flags);
    if (result == 0 || errno == ENOSYS || errno == EINVAL || errno == ESPIPE) return;
    throw_errno(fmt::format("cannot write '{}'", part_.string()));
  };
  for (const Run& run : dirty_) sync(run, SYNC_FILE_RANGE_WRITE);
  for (const Run& run : sent_) {
    sync(run, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    (void)::posix_fadvise(fd_, static_cast<off_t>(run.begin),
                          static_cast<off_t>(run.end - run.begin), POSIX_FADV_DONTNEED);
  }
  sent_ = std::exchange(dirty_, {});
  dirty_bytes_ = 0;
}

void ShardFile::read_at(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(fmt::format("cannot read '{}'", part_.string()));
    if (got == 0) throw Error("'{}' became shorter while it was written", part_.string());
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

void ShardFile::commit() {
  QUERN_CHECK(written_ == file_bytes_, "{} of {} bytes written", written_, file_bytes_);
  if (::fsync(fd_) != 0) throw_errno(fmt::format("cannot sync '{}'", part_.string()));
  (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  // Renamed while the lock is held, so that nobody truncates the finished file.
  if (::rename(part_.c_str(), path_.c_str()) != 0) {
    throw_errno(fmt::format("cannot rename '{}' to '{}'", part_.string(), path_.string()));
  }
  if (::close(std::exchange(fd_, -1)) != 0) {
    throw_errno(fmt::format("cannot close '{}'", path_.string()));
  }
  sync_directory(path_.parent_path());
}

}  // namespace quern
