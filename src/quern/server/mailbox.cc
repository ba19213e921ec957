// See mailbox.h.
#include "quern/server/mailbox.h"

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <iterator>
#include <utility>

namespace quern::server {
namespace {

namespace asio = boost::asio;

// Two outputs of one choice as if one step had made both; `into` grows at its end only.
void merge(engine::Output& into, engine::Output next) {
  into.text += next.text;
  into.token_ids.insert(into.token_ids.end(), next.token_ids.begin(), next.token_ids.end());
  std::move(next.logprobs.begin(), next.logprobs.end(), std::back_inserter(into.logprobs));
  std::move(next.prompt_logprobs.begin(), next.prompt_logprobs.end(),
            std::back_inserter(into.prompt_logprobs));
  next.prompt_logprobs = std::move(into.prompt_logprobs);
  next.text = std::move(into.text);
  next.token_ids = std::move(into.token_ids);
  next.logprobs = std::move(into.logprobs);
  into = std::move(next);
}

}  // namespace

Mailbox::Mailbox(asio::any_io_executor executor, int choices)
    : place_(static_cast<std::size_t>(choices)), wake_(executor) {}

void Mailbox::push(int choice, engine::Output output) {
  const std::lock_guard lock(mutex_);
  auto& place = place_.at(static_cast<std::size_t>(choice));
  if (place) {
    merge(pending_[*place].second, std::move(output));
  } else {
    place = pending_.size();
    pending_.emplace_back(choice, std::move(output));
  }
  if (wake_posted_) return;
  wake_posted_ = true;
  asio::post(wake_.get_executor(), [self = shared_from_this()] { self->wake_.cancel(); });
}

Mailbox::Batch Mailbox::take() {
  const std::lock_guard lock(mutex_);
  wake_posted_ = false;
  for (auto& place : place_) place.reset();
  return std::exchange(pending_, {});
}

asio::awaitable<Mailbox::Batch> Mailbox::receive() {
  while (!closed_) {
    Batch batch = take();
    if (!batch.empty()) co_return batch;
    boost::system::error_code woken;
    wake_.expires_at(asio::steady_timer::time_point::max());
    co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }
  co_return Batch{};
}

void Mailbox::close() {
  closed_ = true;
  wake_.cancel();
}

}  // namespace quern::server
