// The formats of JSON Schema that are enforced, as regular expressions.
// Must never match what a strict reader of the format refuses (a subset is fine).
// Proved by tests/grammar/json_schema_test.cc.
#pragma once

#include <optional>
#include <string_view>

namespace quern::grammar {

// Null for a format that is only an annotation here.
std::optional<std::string_view> format_regex(std::string_view format);

}  // namespace quern::grammar
