// JSON values and members of schemas as JSON Schema types, compares and counts them.
// Must never know a schema's meaning beyond its own members.
// Proved by tests/grammar/json_schema_test.cc and json_schema_suite_test.cc.
#pragma once

#include <cstdint>
#include <string_view>

#include "quern/base/json.h"
#include "quern/grammar/schema_reader.h"

namespace quern::grammar {

// Bits of a type's name; 0 for what is none.
unsigned type_bits(std::string_view name);
// The one type of a value: 1.0 is an integer.
unsigned type_of(const Json& value);
// As the standard compares: 1 is 1.0, and the order of members does not count.
bool equal_values(const Json& a, const Json& b);

bool is_schema(const Json& value);
Conjunction normal(Conjunction entries);  // sorted, unique
std::int64_t count_of(const Json& value);

// The schemas of the first items, and of those behind them; null: none.
struct Items {
  const Json* prefix = nullptr;
  const Json* rest = nullptr;
};
Items items_of(const Json& schema);

}  // namespace quern::grammar
