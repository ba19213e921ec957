// A chat answer sent as events, in whatever form the route speaks.
// Must never send a status line before the engine's first output: an early failure is still a plain
// HTTP error, a later one an event. Proved by tests/server/api_test.cc.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <string>

#include "quern/server/api_error.h"
#include "quern/server/chat_answer.h"
#include "quern/server/running_generations.h"

namespace quern::server {

// The events of one answer, each function in this order; the strings may be empty.
class AnswerEvents {
 public:
  virtual ~AnswerEvents() = default;
  virtual std::string opening() = 0;
  virtual std::string delta(const ChatDelta& delta) = 0;
  virtual std::string closing(const Usage& usage) = 0;
  // In the place of closing().
  virtual std::string failure(const ApiError& error) = 0;
};

boost::asio::awaitable<void> stream_answer(HttpExchange& exchange, RunningAnswer& running,
                                           AnswerEvents& events);

// The whole answer at once.
boost::asio::awaitable<ChatCompletion> complete_answer(RunningAnswer& running);

}  // namespace quern::server
