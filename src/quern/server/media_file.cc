// See media_file.h. Error texts: vLLM multimodal/media/connector.py.
#include "quern/server/media_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "quern/base/error.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOutside = "The file path must be a subpath of `--allowed-local-media-path`.";
constexpr const char* kUnreadable = "The media file does not exist or cannot be read.";

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The path of file:///PATH, file://localhost/PATH or file:/PATH with its %XX resolved.
fs::path path_of(std::string_view url) {
  url.remove_prefix(std::string_view("file:").size());
  if (url.starts_with("//")) {
    url.remove_prefix(2);
    const std::size_t slash = std::min(url.find('/'), url.size());
    const std::string_view host = url.substr(0, slash);
    if (!host.empty() && host != "localhost") {
      throw ApiError(400, "A file URL must name a file of this machine: file:///PATH.");
    }
    url.remove_prefix(slash);
  }
  url = url.substr(0, url.find_first_of("?#"));
  std::string path;
  for (std::size_t i = 0; i < url.size(); ++i) {
    char c = url[i];
    if (c == '%') {
      const int high = i + 2 < url.size() ? hex_digit(url[i + 1]) : -1;
      const int low = high >= 0 ? hex_digit(url[i + 2]) : -1;
      if (low < 0) throw ApiError(400, "The file URL has a malformed % sequence.");
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (c == '\0') throw ApiError(400, "The file URL holds a zero byte.");
    path += c;
  }
  if (!path.starts_with('/')) throw ApiError(400, "A file URL must hold an absolute path.");
  return path;
}

bool lies_under(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

}  // namespace

MediaFolder::MediaFolder(const std::string& allowed_local_media_path) {
  if (allowed_local_media_path.empty()) return;
  std::error_code error;
  root_ = fs::canonical(allowed_local_media_path, error);
  if (error) {
    throw Error("Invalid `--allowed-local-media-path`: The path {} does not exist.",
                allowed_local_media_path);
  }
  if (!fs::is_directory(root_, error)) {
    throw Error("Invalid `--allowed-local-media-path`: The path {} must be a directory.",
                allowed_local_media_path);
  }
}

std::string MediaFolder::read(const std::string& url, std::size_t max_bytes,
                              const std::function<void(std::size_t)>& before_reading) const {
  if (root_.empty()) {
    throw ApiError(400, "Cannot load local files without `--allowed-local-media-path`.");
  }
  std::error_code error;
  const fs::path path = fs::weakly_canonical(path_of(url), error);
  if (error || !lies_under(path, root_)) throw ApiError(400, kOutside);
  // O_NONBLOCK: opening a pipe must not wait.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    throw ApiError(400, kUnreadable);
  }
  // What was opened, even if somebody moved a link in between.
  const fs::path opened = fs::read_symlink(fmt::format("/proc/self/fd/{}", file.get()), error);
  if (error || !lies_under(opened, root_)) throw ApiError(400, kOutside);
  if (static_cast<std::uint64_t>(info.st_size) > max_bytes) {
    throw ApiError(400, fmt::format("The media file is larger than {} bytes.", max_bytes));
  }
  if (before_reading) before_reading(static_cast<std::size_t>(info.st_size));
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (got <= 0) throw ApiError(400, kUnreadable);
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

}  // namespace quern::server
