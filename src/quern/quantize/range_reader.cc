// See range_reader.h.
#include "quern/quantize/range_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "quern/base/error.h"

namespace quern {

RangeReader::RangeReader(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw_errno(fmt::format("cannot open '{}'", path.string()));
  (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);  // doubles the kernel's read-ahead
}

RangeReader::~RangeReader() { ::close(fd_); }

void RangeReader::read(std::uint64_t offset, std::span<std::byte> out) const {
  const std::uint64_t begin = offset;
  for (std::span<std::byte> rest = out; !rest.empty();) {
    const ssize_t got = ::pread(fd_, rest.data(), rest.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(fmt::format("cannot read '{}'", path_.string()));
    if (got == 0) throw Error("'{}' became shorter while it was read", path_.string());
    rest = rest.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  (void)::posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(out.size()),
                        POSIX_FADV_DONTNEED);
}

}  // namespace quern
