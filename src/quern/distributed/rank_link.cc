// See rank_link.h.
#include "quern/distributed/rank_link.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "quern/base/error.h"
#include "quern/base/log.h"

namespace quern {
namespace {

constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{8} << 30;

}  // namespace

RankLink::RankLink(const std::filesystem::path& socket, std::chrono::milliseconds timeout)
    : timeout_(timeout), socket_(FrameSocket::connect(socket)) {
  alive_ = std::jthread([this](const std::stop_token& stop) { show_life(stop); });
}

RankLink::~RankLink() = default;

void RankLink::show_life(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock(mutex);
  while (
      !changed.wait_for(lock, stop, life_period(timeout_), [&] { return stop.stop_requested(); })) {
    try {
      socket_.send(kFrameAlive, {}, timeout_);
    } catch (const Error& error) {
      if (stop.stop_requested()) return;
      // The thread that computes may be in the middle of a step: the process ends, and mpirun ends
      // the others.
      spdlog::critical("rank 0: the server is gone ({}), the rank ends", error.what());
      std::_Exit(1);
    }
  }
}

std::optional<FrameHeader> RankLink::receive(std::chrono::milliseconds idle,
                                             std::vector<std::byte>& bytes) {
  bytes.clear();
  if (!socket_.readable(idle)) return std::nullopt;
  const FrameHeader header = socket_.receive_header(timeout_);
  if (header.bytes > kMaxRequestBytes) {
    throw Error(
        "a step of {} bytes is sent to the ranks, at most {} are possible: lower "
        "max_num_batched_tokens",
        header.bytes, kMaxRequestBytes);
  }
  bytes.resize(header.bytes);
  socket_.receive(bytes, timeout_);
  return header;
}

void RankLink::send(std::uint64_t kind, std::span<const std::byte> bytes) {
  socket_.send(kind, bytes, timeout_);
}

void RankLink::send_text(std::uint64_t kind, std::string_view text) {
  send(kind, std::as_bytes(std::span(text)));
}

}  // namespace quern
