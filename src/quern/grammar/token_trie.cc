// See token_trie.h.
#include "quern/grammar/token_trie.h"

#include <algorithm>
#include <numeric>

namespace quern::grammar {

TokenTrie::TokenTrie(const std::vector<std::string>& texts)
    : vocab_size_(static_cast<int>(texts.size())) {
  std::vector<std::int32_t> order;
  for (std::size_t id = 0; id < texts.size(); ++id) {
    if (!texts[id].empty()) order.push_back(static_cast<std::int32_t>(id));
  }
  const auto text = [&](std::int32_t id) -> const std::string& {
    return texts[static_cast<std::size_t>(id)];
  };
  std::ranges::stable_sort(order,
                           [&](std::int32_t a, std::int32_t b) { return text(a) < text(b); });

  std::vector<std::int32_t> path = {0};  // nodes from the root
  nodes_.push_back({});
  const auto close_to = [&](std::size_t depth) {
    while (path.size() > depth + 1) {
      Node& closed = nodes_[static_cast<std::size_t>(path.back())];
      closed.end = static_cast<std::int32_t>(nodes_.size());
      path.pop_back();
      Node& parent = nodes_[static_cast<std::size_t>(path.back())];
      parent.reach = std::max(parent.reach, closed.reach);
    }
  };
  std::string_view previous;
  for (const std::int32_t id : order) {
    const std::string_view bytes = text(id);
    const auto differs = std::ranges::mismatch(previous, bytes);
    close_to(static_cast<std::size_t>(differs.in1 - previous.begin()));
    while (path.size() <= bytes.size()) {
      path.push_back(static_cast<std::int32_t>(nodes_.size()));
      nodes_.push_back({.byte = static_cast<std::uint8_t>(bytes[path.size() - 2]),
                        .padding = {},
                        .depth = static_cast<std::int32_t>(path.size() - 1),
                        .end = 0,
                        .first_token = static_cast<std::int32_t>(tokens_.size()),
                        .reach = static_cast<std::int32_t>(path.size() - 1)});
    }
    tokens_.push_back(id);
    max_depth_ = std::max(max_depth_, static_cast<int>(bytes.size()));
    previous = bytes;
  }
  close_to(0);
  const auto size = static_cast<std::int32_t>(nodes_.size());
  nodes_.front().end = size;
  nodes_.push_back({.byte = 0,
                    .padding = {},
                    .depth = 0,
                    .end = size,
                    .first_token = static_cast<std::int32_t>(tokens_.size()),
                    .reach = 0});
}

TokenTrie TokenTrie::of(const Tokenizer& tokenizer) {
  std::vector<std::string> texts(static_cast<std::size_t>(tokenizer.vocab_size()));
  for (std::size_t id = 0; id < texts.size(); ++id) {
    const auto token = static_cast<std::int32_t>(id);
    if (!tokenizer.is_special(token)) texts[id] = tokenizer.token_bytes(token);
  }
  return TokenTrie(texts);
}

int TokenTrie::find(std::string_view text, int node) const {
  for (const char c : text) {
    int child = node + 1;
    const int end = nodes_[static_cast<std::size_t>(node)].end;
    while (child < end &&
           nodes_[static_cast<std::size_t>(child)].byte != static_cast<std::uint8_t>(c)) {
      child = nodes_[static_cast<std::size_t>(child)].end;
    }
    if (child >= end) return -1;
    node = child;
  }
  return node;
}

}  // namespace quern::grammar
