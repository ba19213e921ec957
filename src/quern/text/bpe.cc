// See bpe.h. The rule: as long as a neighbouring pair has a merge, apply the one of lowest rank,
// leftmost first. A heap of candidate pairs gives the next one; candidates outdated by other merges
// are skipped.
#include "quern/text/bpe.h"

#include <algorithm>
#include <functional>

#include "quern/base/error.h"

namespace quern {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

}  // namespace

void Bpe::add_merge(Id left, Id right, Id merged) {
  ranks_[pair_key(left, right)] = static_cast<std::uint32_t>(merged_.size());
  merged_.push_back(merged);
}

std::uint32_t Bpe::rank(Id left, Id right) const {
  const auto it = ranks_.find(pair_key(left, right));
  return it == ranks_.end() ? kNoRank : it->second;
}

void Bpe::push(Workspace& workspace, std::uint32_t left) const {
  const Workspace::Symbol& symbol = workspace.symbols[left];
  if (symbol.next == kEnd) return;
  const std::uint32_t found = rank(symbol.id, workspace.symbols[symbol.next].id);
  if (found == kNoRank) return;
  workspace.heap.push_back((std::uint64_t{found} << 32) | left);
}

void Bpe::encode(std::string_view piece, Workspace& workspace, std::vector<Id>& out) const {
  QUERN_CHECK(piece.size() < kEnd, "a piece of {} bytes", piece.size());
  auto& symbols = workspace.symbols;
  auto& heap = workspace.heap;
  const auto size = static_cast<std::uint32_t>(piece.size());
  symbols.clear();
  heap.clear();
  for (std::uint32_t i = 0; i < size; ++i) {
    symbols.push_back({.id = byte_tokens_[static_cast<unsigned char>(piece[i])],
                       .prev = i == 0 ? kEnd : i - 1,
                       .next = i + 1 == size ? kEnd : i + 1});
  }
  for (std::uint32_t i = 0; i < size; ++i) push(workspace, i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto found = static_cast<std::uint32_t>(heap.back() >> 32);
    const auto left = static_cast<std::uint32_t>(heap.back());
    heap.pop_back();
    Workspace::Symbol& symbol = symbols[left];
    if (symbol.id < 0 || symbol.next == kEnd) continue;
    Workspace::Symbol& right = symbols[symbol.next];
    if (rank(symbol.id, right.id) != found) continue;  // an outdated candidate

    symbol.id = merged_[found];
    right.id = -1;
    symbol.next = right.next;
    if (symbol.next != kEnd) symbols[symbol.next].prev = left;
    for (const std::uint32_t candidate : {symbol.prev, left}) {
      if (candidate == kEnd) continue;
      const std::size_t before = heap.size();
      push(workspace, candidate);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  for (std::uint32_t i = size == 0 ? kEnd : 0; i != kEnd; i = symbols[i].next) {
    out.push_back(symbols[i].id);
  }
}

}  // namespace quern
