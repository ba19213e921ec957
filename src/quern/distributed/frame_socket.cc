// See frame_socket.h.
#include "quern/distributed/frame_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "quern/base/error.h"

namespace quern {
namespace {

// Waits for `events`; false at the timeout.
bool wait_for(int fd, short events, Milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left = std::chrono::ceil<Milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{fd, events, 0};
    const int found = ::poll(&entry, 1, std::max(0, static_cast<int>(left.count())));
    if (found > 0) return true;
    if (found < 0 && errno != EINTR) throw_errno("cannot wait for the ranks' socket");
    if (left.count() <= 0) return false;
  }
}

double seconds(Milliseconds time) { return std::chrono::duration<double>(time).count(); }

sockaddr_un address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = path.string();
  if (text.size() >= sizeof address.sun_path) {
    throw Error("'{}': too long for a socket's name; set TMPDIR to a shorter directory", text);
  }
  std::memcpy(address.sun_path, text.c_str(), text.size() + 1);
  return address;
}

int unix_socket() {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw_errno("cannot make a socket");
  return fd;
}

}  // namespace

FrameSocket::~FrameSocket() {
  if (fd_ >= 0) ::close(fd_);
}

int FrameSocket::connect(const std::filesystem::path& path) {
  const sockaddr_un address = address_of(path);
  const int fd = unix_socket();
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    ::close(fd);
    throw Error(
        "rank 0 cannot reach the server at '{}': rank 0 has to run on the server's host, so that "
        "host comes first in a hostfile",
        path.string());
  }
  return fd;
}

void FrameSocket::send_all(std::span<const std::byte> bytes, Milliseconds timeout) {
  while (!bytes.empty()) {
    if (!wait_for(fd_, POLLOUT, timeout))
      throw Error("the other end has read nothing for {} s", seconds(timeout));
    const ssize_t put = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (put < 0) throw Error("the other end has closed the connection");
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void FrameSocket::send(std::uint64_t kind, std::span<const std::byte> bytes, Milliseconds timeout) {
  const FrameHeader header{kind, bytes.size()};
  const std::lock_guard lock(sending_);
  send_all(std::as_bytes(std::span(&header, 1)), timeout);
  send_all(bytes, timeout);
}

bool FrameSocket::readable(Milliseconds timeout) { return wait_for(fd_, POLLIN, timeout); }

FrameHeader FrameSocket::receive_header(Milliseconds timeout) {
  FrameHeader header;
  receive(std::as_writable_bytes(std::span(&header, 1)), timeout);
  return header;
}

void FrameSocket::receive(std::span<std::byte> bytes, Milliseconds timeout) {
  while (!bytes.empty()) {
    if (!readable(timeout)) throw Error("the other end was silent for {} s", seconds(timeout));
    const ssize_t got = ::recv(fd_, bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Error("the other end has closed the connection");
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
}

void FrameSocket::shut_down() {
  if (fd_ >= 0) ::shutdown(fd_, SHUT_RDWR);
}

PrivateListener::PrivateListener() {
  std::string name = (std::filesystem::temp_directory_path() / "quern-ranks-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw_errno("cannot make a directory for a socket");
  directory_ = name;
  const sockaddr_un address = address_of(path());
  fd_ = unix_socket();
  if (::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd_, 1) != 0) {
    throw_errno(fmt::format("cannot listen on '{}'", path().string()));
  }
}

PrivateListener::~PrivateListener() {
  if (fd_ >= 0) ::close(fd_);
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

int PrivateListener::accept(Milliseconds timeout) {
  if (!wait_for(fd_, POLLIN, timeout)) return -1;
  const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) throw_errno("cannot accept the connection of rank 0");
  return fd;
}

}  // namespace quern
