// The vocabulary as a trie over bytes, in preorder: common beginnings are looked at once.
// Must never contain special tokens: a grammar speaks of text, and they are none.
// Proved by tests/grammar/token_mask_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/text/tokenizer.h"

namespace quern::grammar {

// Immutable.
class TokenTrie {
 public:
  struct Node {
    std::uint8_t byte;
    std::uint8_t padding[3];
    std::int32_t depth;        // of the root 0
    std::int32_t end;          // behind the subtree
    std::int32_t first_token;  // tokens() from here to the next node's are exactly this text
    std::int32_t reach;        // the largest depth in the subtree
  };

  // `texts[id]`: the bytes of a token; an empty one is in no grammar.
  explicit TokenTrie(const std::vector<std::string>& texts);
  // Added tokens that are not special are text; so are all other tokens.
  static TokenTrie of(const Tokenizer& tokenizer);

  // The last node is behind the trie.
  std::span<const Node> nodes() const { return nodes_; }
  int size() const { return static_cast<int>(nodes_.size()) - 1; }
  std::span<const std::int32_t> tokens() const { return tokens_; }
  int max_depth() const { return max_depth_; }
  int vocab_size() const { return vocab_size_; }
  // The node of `text` below `node`, or -1.
  int find(std::string_view text, int node = 0) const;

 private:
  std::vector<Node> nodes_;
  std::vector<std::int32_t> tokens_;
  int max_depth_ = 0;
  int vocab_size_ = 0;
};

}  // namespace quern::grammar
