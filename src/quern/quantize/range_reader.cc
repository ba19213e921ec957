// See range_reader.h.
#include "quern/quantize/range_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "quern/base/error.h"

namespace quern {
namespace {

constexpr std::uint64_t kReadWindowBytes = 32u << 20;

}  // namespace

RangeReader::RangeReader(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw_errno(fmt::format("cannot open '{}'", path.string()));
  (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);  // doubles the kernel's read-ahead
}

RangeReader::~RangeReader() {
  (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd_);
}

void RangeReader::read(std::uint64_t offset, std::span<std::byte> out) const {
  for (std::span<std::byte> rest = out; !rest.empty();) {
    const ssize_t got = ::pread(fd_, rest.data(), rest.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(fmt::format("cannot read '{}'", path_.string()));
    if (got == 0) throw Error("'{}' became shorter while it was read", path_.string());
    rest = rest.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  drop_behind(offset);
}

// In large windows, and not the last one: pages that were just read are still in lists of each
// processor, and the kernel drops those only after work on all of them.
void RangeReader::drop_behind(std::uint64_t offset) const {
  const std::lock_guard lock(mutex_);
  kept_from_ = std::min(kept_from_, offset);  // a tensor may be read twice
  if (offset - kept_from_ < 2 * kReadWindowBytes) return;
  const std::uint64_t end = offset - kReadWindowBytes;
  (void)::posix_fadvise(fd_, static_cast<off_t>(kept_from_), static_cast<off_t>(end - kept_from_),
                        POSIX_FADV_DONTNEED);
  kept_from_ = end;
}

}  // namespace quern
