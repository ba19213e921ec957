// Carries engine outputs from the engine's thread to a coroutine of the server.
// Must never block the engine: what a slow reader leaves behind melts into one pending output a
// choice. Proved by tests/server/api_test.cc.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "quern/engine/request.h"

namespace quern::server {

// Memory is bounded by the text of the answers, not by the number of steps behind it.
class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  Mailbox(boost::asio::any_io_executor executor, int choices);

  // From any thread.
  void push(int choice, engine::Output output);

  // On the executor's thread. Waits for outputs and takes all of them, at most one a choice, in the
  // order in which choices got their first one. Empty after close().
  using Batch = std::vector<std::pair<int, engine::Output>>;
  boost::asio::awaitable<Batch> receive();
  void close();

 private:
  Batch take();

  std::mutex mutex_;
  Batch pending_;                                  // guarded by mutex_
  std::vector<std::optional<std::size_t>> place_;  // of a choice in pending_; guarded by mutex_
  bool wake_posted_ = false;                       // guarded by mutex_
  bool closed_ = false;                            // executor's thread only
  boost::asio::steady_timer wake_;                 // executor's thread only: cancelled = look again
};

}  // namespace quern::server
