// Finds added tokens in a text, as tokenizers' AddedVocabulary does.
// Must never look at the rest of the vocabulary: what lies between two added tokens is BPE's
// business. Proved by tests/text/tokenizer_test.cc.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "quern/text/tokenizer_file.h"

namespace quern {

// A stretch of the text: one added token, or text between them (id absent).
struct TextSpan {
  std::string_view text;
  std::optional<std::int32_t> id;
};

class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Cuts `text` at the leftmost-longest matches and appends the spans, none of them empty. With
  // `parse_special` false, matches of special tokens stay text.
  void split(std::string_view text, bool parse_special, std::vector<TextSpan>& out) const;

 private:
  struct Node {
    std::map<char, std::uint32_t> next;
    std::int32_t token = -1;  // index into tokens_ of the token that ends here
  };

  // The longest token that starts at `at`, or null.
  const AddedToken* match(std::string_view text, std::size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> trie_ = std::vector<Node>(1);
  std::bitset<256> first_;  // bytes that start a token
};

}  // namespace quern
