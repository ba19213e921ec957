// The generations of a plan while they run, seen from the coroutine that answers the request.
// Must never outlive its request: what still runs is cancelled when it goes or the client is gone.
// Proved by tests/server/api_test.cc.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <vector>

#include "quern/server/chat_answer.h"
#include "quern/server/mailbox.h"
#include "quern/server/routes.h"

namespace quern::server {

class RunningAnswer {
 public:
  // Starts the plan, which outlives the object; `executor` is the coroutine's. Throws ApiError, and
  // then nothing runs.
  RunningAnswer(ApiContext& api, HttpExchange& exchange, const ChatPlan& plan,
                boost::asio::any_io_executor executor);
  RunningAnswer(const RunningAnswer&) = delete;
  RunningAnswer& operator=(const RunningAnswer&) = delete;
  ~RunningAnswer();

  // Waits for the engine and returns what there is to show, perhaps nothing. Throws ApiError when a
  // generation failed, and a system_error when the client is gone.
  boost::asio::awaitable<std::vector<ChatDelta>> next();

  bool finished() const { return answer_.finished(); }
  Usage usage() const { return answer_.usage(); }

 private:
  ApiContext& api_;
  const ChatPlan& plan_;
  std::shared_ptr<Mailbox> mailbox_;
  ChatAnswer answer_;
};

}  // namespace quern::server
