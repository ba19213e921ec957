// Byte pair encoding: the merges of a vocabulary applied to one piece of text.
// Must never take more than O(n log n) time for a piece of n bytes.
// Proved by tests/text/tokenizer_test.cc (against the naive rule) and
// tests/text/tokenizer_golden_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quern {

class Bpe {
 public:
  using Id = std::int32_t;

  // Token of each single byte; -1 where the vocabulary has none.
  void set_byte_tokens(const std::array<Id, 256>& ids) { byte_tokens_ = ids; }
  // Adds the next merge (rank = order of calls): left and right become `merged`. The last of two
  // merges of the same pair counts, as in the peer.
  void add_merge(Id left, Id right, Id merged);

  // Working memory, reused from piece to piece.
  struct Workspace {
    struct Symbol {
      Id id;               // -1: merged into its left neighbour
      std::uint32_t prev;  // indices of neighbours; kEnd at the ends
      std::uint32_t next;
    };
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> heap;  // rank << 32 | index of the left symbol
  };

  // Appends the tokens of `piece`; bytes without a token must not occur.
  void encode(std::string_view piece, Workspace& workspace, std::vector<Id>& out) const;

 private:
  static constexpr std::uint32_t kEnd = 0xFFFFFFFFu;
  static constexpr std::uint32_t kNoRank = 0xFFFFFFFFu;

  std::uint32_t rank(Id left, Id right) const;
  void push(Workspace& workspace, std::uint32_t left) const;

  std::array<Id, 256> byte_tokens_{};
  std::unordered_map<std::uint64_t, std::uint32_t> ranks_;  // left << 32 | right
  std::vector<Id> merged_;                                  // by rank
};

}  // namespace quern
