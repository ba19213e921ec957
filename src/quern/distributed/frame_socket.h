// Messages between the server and rank 0 over a Unix socket: a header, then its bytes.
// Must never wait for ever: silence beyond the timeout and a closed end are Errors.
// Proved by tests/distributed/rank_job_test.cc.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>

namespace quern {

struct FrameHeader {
  std::uint64_t kind = 0;
  std::uint64_t bytes = 0;
};

// What both ends know; other kinds belong to who uses the job.
inline constexpr std::uint64_t kFrameAlive = 1;  // from rank 0, every life_period()
inline constexpr std::uint64_t kFrameError = 2;  // from rank 0: text, the job is over
inline constexpr std::uint64_t kFrameReady = 3;  // from rank 0: text, answer to the first request
inline constexpr std::uint64_t kFrameResult = 4;
inline constexpr std::uint64_t kFrameEnd = 5;  // to rank 0: nothing more will come
inline constexpr std::uint64_t kFrameFirstFree = 16;

using Milliseconds = std::chrono::milliseconds;

// How often a process shows life where silence of `timeout` means that it has failed.
constexpr Milliseconds life_period(Milliseconds timeout) {
  return std::min<Milliseconds>(std::chrono::seconds(1), timeout / 4);
}

// send() may be called by several threads, receiving by one.
class FrameSocket {
 public:
  FrameSocket() = default;
  explicit FrameSocket(int fd) : fd_(fd) {}
  FrameSocket(const FrameSocket&) = delete;
  FrameSocket& operator=(const FrameSocket&) = delete;
  ~FrameSocket();

  static int connect(const std::filesystem::path& path);  // the descriptor; throws
  void open(int fd) { fd_ = fd; }

  void send(std::uint64_t kind, std::span<const std::byte> bytes, Milliseconds timeout);
  // False when nothing came within the timeout.
  bool readable(Milliseconds timeout);
  FrameHeader receive_header(Milliseconds timeout);
  void receive(std::span<std::byte> bytes, Milliseconds timeout);
  // Both ends see the end.
  void shut_down();

 private:
  void send_all(std::span<const std::byte> bytes, Milliseconds timeout);

  int fd_ = -1;
  std::mutex sending_;
};

// A listening Unix socket in a directory of its own, which only this user may enter.
class PrivateListener {
 public:
  PrivateListener();
  PrivateListener(const PrivateListener&) = delete;
  PrivateListener& operator=(const PrivateListener&) = delete;
  ~PrivateListener();

  std::filesystem::path path() const { return directory_ / "rank0"; }
  // A connection's descriptor, or -1 when none came within the timeout.
  int accept(Milliseconds timeout);

 private:
  std::filesystem::path directory_;
  int fd_ = -1;
};

}  // namespace quern
