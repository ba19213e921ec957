// Text as Python would write or read it: json.dumps, repr, str.strip, literals.
// Must never approximate: request hashes, prompt hashes and the console line depend on each byte.
// Proved by tests/eval/python_text_test.cc (cases printed by CPython 3.11).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quern/base/json.h"

namespace quern {

struct PythonJsonStyle {
  bool ensure_ascii = true;  // non-ASCII as \uXXXX
  int indent = -1;           // < 0: one line with ", " and ": "
};

// json.dumps(value, ensure_ascii=..., indent=...).
std::string python_json(const Json& value, const PythonJsonStyle& style = {});
// repr(value) of the dict, list, str, int, float, bool or None that `value` stands for.
std::string python_repr(const Json& value);
// str(value): text as it is, all else as repr.
std::string python_str(const Json& value);
// repr(float): the shortest digits that read back to the same value.
std::string python_float(double value);

// str.strip(): Unicode white space at both ends.
std::string_view python_strip(std::string_view text);
std::string_view python_lstrip(std::string_view text);
// text[0].isspace() and text[-1].isspace(); false for empty text.
bool starts_with_space(std::string_view text);
bool ends_with_space(std::string_view text);

// len(re.split(r"\s+", text)).
std::size_t python_words(std::string_view text);

// ast.literal_eval for str, int, float, bool, None, list, tuple (as list) and dict with str keys;
// empty when the text is no such literal.
std::optional<Json> parse_python_literal(std::string_view text);
// float(text), as Python accepts it (surrounding space, underscores between digits, inf, nan).
std::optional<double> parse_python_float(std::string_view text);

}  // namespace quern
