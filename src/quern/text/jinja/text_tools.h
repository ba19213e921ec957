// String operations with Python's meaning, shared by methods and filters.
// Must never count bytes where Python counts characters, nor go through text without spending
// steps. Proved by tests/text/jinja_golden_test.cc and jinja_limits_test.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quern/text/jinja/interpreter.h"
#include "quern/text/utf8.h"

namespace quern::jinja {

// str.isspace of one character.
bool is_python_space(char32_t c);

template <typename Fn>
bool all_of_characters(std::string_view text, Fn&& test) {
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    if (!test(scan.code_point)) return false;
    text.remove_prefix(scan.length);
  }
  return true;
}

// As std::string_view::find and rfind, in bounded steps: a search without them takes the product of
// the sizes.
std::size_t find_bytes(std::string_view text, std::string_view part, std::size_t from = 0);
std::size_t rfind_bytes(std::string_view text, std::string_view part);

// Without `characters`: white space.
std::string strip(std::string_view text, const std::optional<std::string>& characters, bool left,
                  bool right);
// Without `separator`: at runs of white space. `limit` < 0: none.
Values split(std::string_view text, const std::optional<std::string>& separator, Int limit,
             bool from_right);
Values split_lines(std::string_view text, bool keep_ends);
std::string replace(Interpreter& in, std::string_view text, std::string_view from,
                    std::string_view to, Int limit);
std::string capitalize(std::string_view text);
std::string python_title(std::string_view text);  // a letter behind a letter is lower
std::string jinja_title(std::string_view text);   // words begin behind spaces and ( [ { < -
std::string swap_case(std::string_view text);
std::string justify(Interpreter& in, const Value& text, Int width, std::string_view fill, int side);
// str.format with plain fields: {}, {0}, {name}, {x.y}, and format specs of numbers and strings.
std::string format_braces(Interpreter& in, std::string_view pattern, CallArgs& args);
// printf-style: the `format` filter and the % operator.
std::string format_percent(Interpreter& in, std::string_view pattern, CallArgs& args);

}  // namespace quern::jinja
