// Character properties and simple case mapping, as Python and Rust's regex crate understand them.
// Must never depend on the process's locale.
// Proved by tests/text/jinja_golden_test.cc.
#pragma once

#include <string>
#include <string_view>

namespace quern {

// Unicode White_Space.
bool is_white_space(char32_t c);
// \w of Unicode regular expressions: letters, marks, decimal digits, connectors.
bool is_word(char32_t c);
// Python's str.isprintable for one character.
bool is_printable(char32_t c);
bool is_alphabetic(char32_t c);
bool is_decimal(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);

// Full case mapping for U+00DF, simple (one to one) for all else.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
char32_t simple_upper(char32_t c);
char32_t simple_lower(char32_t c);

}  // namespace quern
