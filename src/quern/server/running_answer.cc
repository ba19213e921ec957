// See running_answer.h.
#include "quern/server/running_answer.h"

#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>
#include <utility>

namespace quern::server {

RunningAnswer::RunningAnswer(ApiContext& api, HttpExchange& exchange, const ChatPlan& plan,
                             boost::asio::any_io_executor executor)
    : api_(api),
      plan_(plan),
      mailbox_(std::make_shared<Mailbox>(std::move(executor), plan.n)),
      answer_(plan) {
  std::vector<Metrics::Generation> timers(
      static_cast<std::size_t>(plan.n),
      Metrics::Generation(*api.metrics, static_cast<int>(plan.prompt.size()),
                          plan.sampling.max_tokens));
  api.service.start(plan, [mailbox = mailbox_, timers = std::move(timers), keep = api.metrics](
                              int choice, engine::Output output) mutable {
    timers[static_cast<std::size_t>(choice)].output(output);
    mailbox->push(choice, std::move(output));
  });
  exchange.watch([mailbox = mailbox_] { mailbox->close(); });
}

RunningAnswer::~RunningAnswer() {
  if (!answer_.finished()) api_.service.cancel(plan_);
}

boost::asio::awaitable<std::vector<ChatDelta>> RunningAnswer::next() {
  Mailbox::Batch batch = co_await mailbox_->receive();
  if (batch.empty()) throw boost::system::system_error(boost::asio::error::connection_reset);
  std::vector<ChatDelta> deltas;
  for (auto& [choice, output] : batch) {
    auto delta = answer_.feed(choice, std::move(output));
    if (delta) deltas.push_back(std::move(*delta));
  }
  co_return deltas;
}

}  // namespace quern::server
