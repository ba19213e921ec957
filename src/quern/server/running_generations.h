// Generations while they run, seen from the coroutine that answers the request.
// Must never outlive its request: what still runs is cancelled when it goes or the client is gone.
// Proved by tests/server/api_test.cc.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <span>
#include <vector>

#include "quern/server/chat_answer.h"
#include "quern/server/mailbox.h"
#include "quern/server/routes.h"

namespace quern::server {

class RunningGenerations {
 public:
  // Starts the plans, which outlive the object; `executor` is the coroutine's. Throws ApiError, and
  // then nothing runs.
  RunningGenerations(ApiContext& api, HttpExchange& exchange, std::span<const GenerationPlan> plans,
                     boost::asio::any_io_executor executor);
  RunningGenerations(const RunningGenerations&) = delete;
  RunningGenerations& operator=(const RunningGenerations&) = delete;
  ~RunningGenerations();

  // Waits for the engine: outputs and the choices they belong to, at most one a choice. Throws a
  // system_error when the client is gone.
  boost::asio::awaitable<Mailbox::Batch> next();
  bool finished() const { return open_ == 0; }

 private:
  ApiContext& api_;
  std::span<const GenerationPlan> plans_;
  int open_ = 0;
  std::shared_ptr<Mailbox> mailbox_;
};

// The same for one chat plan, as deltas of its messages.
class RunningAnswer {
 public:
  RunningAnswer(ApiContext& api, HttpExchange& exchange, const ChatPlan& plan,
                boost::asio::any_io_executor executor)
      : answer_(plan), generations_(api, exchange, plan.alone(), std::move(executor)) {}

  // What there is to show, perhaps nothing. Throws ApiError when a generation failed.
  boost::asio::awaitable<std::vector<ChatDelta>> next();

  bool finished() const { return answer_.finished(); }
  const ChatAnswer& answer() const { return answer_; }

 private:
  ChatAnswer answer_;
  RunningGenerations generations_;
};

}  // namespace quern::server
