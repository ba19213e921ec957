// UTF-8 scanning: validity, code points, replacement of invalid sequences.
// Must never read behind the view it is given.
// Proved by tests/text/tokenizer_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quern {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// What the bytes at the start of a text are.
struct Utf8Scan {
  enum class Kind { kValid, kInvalid, kIncomplete };
  Kind kind;
  // Bytes of the character; of the maximal invalid sequence (Unicode 3.9, "maximal subpart", at
  // least 1); or of the prefix of a character that the end of the text cuts off.
  std::size_t length;
  char32_t code_point;  // of a valid character
};

// `text` must not be empty.
Utf8Scan scan_utf8(std::string_view text);

// Offset of the first byte that is not part of a valid character, or npos.
std::size_t find_invalid_utf8(std::string_view text);

// Moves the text out of `bytes` to the end of `out`, invalid sequences replaced by U+FFFD. An
// incomplete character at the end stays in `bytes` (at most 3 bytes), unless `final`: then it is
// replaced as well.
void drain_utf8(std::string& bytes, std::string& out, bool final);

void append_utf8(std::string& out, char32_t code_point);

// Number of code points of valid UTF-8.
std::size_t count_utf8(std::string_view text);

}  // namespace quern
