// See running_generations.h.
#include "quern/server/running_generations.h"

#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>
#include <utility>

namespace quern::server {
namespace asio = boost::asio;

RunningGenerations::RunningGenerations(ApiContext& api, HttpExchange& exchange,
                                       std::span<const GenerationPlan> plans,
                                       asio::any_io_executor executor)
    : api_(api), plans_(plans) {
  std::vector<Metrics::Generation> timers;
  for (const GenerationPlan& plan : plans) {
    for (int i = 0; i < plan.n; ++i) {
      timers.emplace_back(*api.metrics, static_cast<int>(plan.prompt.size()),
                          plan.sampling.max_tokens, plan.n);
    }
  }
  const int choices = static_cast<int>(timers.size());
  mailbox_ = std::make_shared<Mailbox>(std::move(executor), choices);
  api.service.start(plans, [mailbox = mailbox_, timers = std::move(timers), keep = api.metrics](
                               int choice, engine::Output output) mutable {
    timers[static_cast<std::size_t>(choice)].output(output);
    mailbox->push(choice, std::move(output));
  });
  open_ = choices;
  exchange.watch([mailbox = mailbox_] { mailbox->close(); });
}

RunningGenerations::~RunningGenerations() {
  if (open_ > 0) api_.service.cancel(plans_);
}

asio::awaitable<Mailbox::Batch> RunningGenerations::next() {
  Mailbox::Batch batch = co_await mailbox_->receive();
  if (batch.empty()) throw boost::system::system_error(asio::error::connection_reset);
  for (const auto& [choice, output] : batch) open_ -= output.finish_reason ? 1 : 0;
  co_return batch;
}

asio::awaitable<std::vector<ChatDelta>> RunningAnswer::next() {
  Mailbox::Batch batch = co_await generations_.next();
  std::vector<ChatDelta> deltas;
  for (auto& [choice, output] : batch) {
    auto delta = answer_.feed(choice, std::move(output));
    if (delta) deltas.push_back(std::move(*delta));
  }
  co_return deltas;
}

}  // namespace quern::server
