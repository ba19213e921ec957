// See answer_stream.h.
#include "quern/server/answer_stream.h"

#include <utility>

namespace quern::server {
namespace asio = boost::asio;

asio::awaitable<void> stream_answer(HttpExchange& exchange, RunningAnswer& running,
                                    AnswerEvents& events) {
  bool begun = false;
  bool failed = false;
  while (!running.finished() && !failed) {
    std::string piece;
    try {
      const std::vector<ChatDelta> deltas = co_await running.next();
      if (!begun) piece = events.opening();
      for (const ChatDelta& delta : deltas) piece += events.delta(delta);
    } catch (const ApiError& error) {
      if (!begun) throw;
      piece += events.failure(error);
      failed = true;
    }
    if (!std::exchange(begun, true)) co_await exchange.begin_stream(event_stream_head());
    if (running.finished() && !failed) piece += events.closing(running.answer().usage());
    co_await exchange.write(std::move(piece));
  }
  co_await exchange.end_stream();
}

asio::awaitable<ChatCompletion> complete_answer(RunningAnswer& running) {
  ChatCompletion completion;
  while (!running.finished()) {
    for (const ChatDelta& delta : co_await running.next()) completion.add(delta);
  }
  completion.usage = running.answer().usage();
  completion.prompt_logprobs = running.answer().prompt_logprobs();
  co_return completion;
}

}  // namespace quern::server
