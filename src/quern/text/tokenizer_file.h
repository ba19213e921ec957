// The contents of a tokenizer.json, read in one pass; the vocabulary and merges never pass through
// a DOM. Must never accept a file it would tokenize differently from the peer: what is not
// understood is refused. Proved by tests/text/tokenizer_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/base/json.h"

namespace quern {

struct AddedToken {
  std::int32_t id;
  std::string content;
  bool special;
  bool single_word;  // matches only between non-word characters
  bool lstrip;       // takes the white space in front of it
  bool rstrip;       // takes the white space behind it
  bool normalized;   // searched after the tokens that are not
};

struct TokenizerFile {
  std::vector<std::pair<std::string, std::int32_t>> vocab;  // printable form, as in the file
  std::vector<std::pair<std::string, std::string>> merges;  // in rank order
  std::vector<AddedToken> added_tokens;
  Json pre_tokenizer;
  bool ignore_merges = false;
};

// Ids at or above are refused, so that a wrong file cannot ask for unbounded tables.
inline constexpr std::int32_t kMaxTokenId = 1 << 22;

TokenizerFile parse_tokenizer_file(std::string_view json, std::string_view source);

}  // namespace quern
