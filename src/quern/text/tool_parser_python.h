// The pieces of Python that decide how vLLM's tool parser reads values: str.isspace, int(),
// float(), float repr, json.loads and json.dumps(ensure_ascii=False), on UTF-8 text. Must never
// throw on any text nor lose digits of an integer. Proved by tests/text/tool_parser_test.cc.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace quern::python {

// Bytes of the whitespace character (str.isspace) that `text` begins with, 0 when it begins with
// none.
std::size_t space_size(std::string_view text);

// `text` is the cut-off beginning of a whitespace character of several bytes.
bool is_partial_space(std::string_view text);

std::string_view lstrip(std::string_view text);
std::string_view strip(std::string_view text);
inline bool is_blank(std::string_view text) { return lstrip(text).empty(); }

// int(text) as decimal digits of any length up to CPython's limit of 4300. Only ASCII digits.
std::optional<std::string> to_int(std::string_view text);

// float(text); infinities and NaN are no values here.
std::optional<double> to_float(std::string_view text);

std::string float_repr(double value);  // finite

// The inside of json.dumps(text, ensure_ascii=False), without the quotes.
void append_escaped(std::string& out, std::string_view text);
std::string json_string(std::string_view text);

// json.dumps(json.loads(text), ensure_ascii=False) for a finite value nested at most `max_depth`
// deep.
std::optional<std::string> reformat_json(std::string_view text, std::size_t max_depth);

}  // namespace quern::python
