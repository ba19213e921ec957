// See response_store.h.
#include "quern/server/response_store.h"

#include <utility>

namespace quern::server {

void ResponseStore::add(const std::string& id, Json response, Json messages, std::size_t bytes) {
  if (max_entries_ == 0 || bytes > max_bytes_) return;
  const std::lock_guard lock(mutex_);
  if (!entries_.emplace(id, Entry{std::move(response), std::move(messages), bytes}).second) return;
  order_.push_back(id);
  bytes_ += bytes;
  while (entries_.size() > max_entries_ || bytes_ > max_bytes_) {
    const auto oldest = entries_.find(order_.front());
    bytes_ -= oldest->second.bytes;
    entries_.erase(oldest);
    order_.pop_front();
  }
}

Json ResponseStore::response(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? Json(nullptr) : found->second.response;
}

Json ResponseStore::messages(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? Json(nullptr) : found->second.messages;
}

}  // namespace quern::server
