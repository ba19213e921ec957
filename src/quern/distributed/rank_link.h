// Rank 0's side of the connection to the server: requests in, results out, a sign of life every
// life_period(). Must never let a rank outlive the server.
// Proved by tests/distributed/rank_job_test.cc.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>
#include <thread>
#include <vector>

#include "quern/distributed/frame_socket.h"

namespace quern {

// One thread receives and answers.
class RankLink {
 public:
  RankLink(const std::filesystem::path& socket, std::chrono::milliseconds timeout);
  ~RankLink();

  // The next request with its bytes; nullopt when none came within `idle`. Throws when the server
  // is gone.
  std::optional<FrameHeader> receive(std::chrono::milliseconds idle, std::vector<std::byte>& bytes);
  void send(std::uint64_t kind, std::span<const std::byte> bytes);
  void send_text(std::uint64_t kind, std::string_view text);

 private:
  void show_life(const std::stop_token& stop);

  std::chrono::milliseconds timeout_;
  FrameSocket socket_;
  std::jthread alive_;
};

}  // namespace quern
