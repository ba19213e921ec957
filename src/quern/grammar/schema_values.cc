// See schema_values.h.
#include "quern/grammar/schema_values.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace quern::grammar {
namespace {

struct TypeName {
  std::string_view name;
  unsigned bits;
};
constexpr auto kTypeNames = std::to_array<TypeName>({{"null", kNullType},
                                                     {"boolean", kBooleanType},
                                                     {"integer", kIntegerType},
                                                     {"number", kIntegerType | kNumberType},
                                                     {"string", kStringType},
                                                     {"array", kArrayType},
                                                     {"object", kObjectType}});

}  // namespace

unsigned type_bits(std::string_view name) {
  for (const TypeName& type : kTypeNames) {
    if (type.name == name) return type.bits;
  }
  return 0;
}

unsigned type_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return kNullType;
    case Json::value_t::boolean:
      return kBooleanType;
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return kIntegerType;
    case Json::value_t::number_float: {
      const double number = value.get<double>();
      return std::trunc(number) == number ? kIntegerType : kNumberType;
    }
    case Json::value_t::array:
      return kArrayType;
    case Json::value_t::object:
      return kObjectType;
    default:
      return kStringType;
  }
}

bool equal_values(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.get<double>() == b.get<double>();
  if (a.type() != b.type() && !(a.is_number() && b.is_number())) return false;
  if (a.is_array()) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal_values);
  }
  if (!a.is_object()) return a == b;
  if (a.size() != b.size()) return false;
  return std::ranges::all_of(a.items(), [&](const auto& item) {
    const auto found = b.find(item.key());
    return found != b.end() && equal_values(item.value(), *found);
  });
}

bool is_schema(const Json& value) { return value.is_object() || value.is_boolean(); }

Conjunction normal(Conjunction entries) {
  std::ranges::sort(entries);
  entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
  return entries;
}

Items items_of(const Json& schema) {
  Items items;
  items.prefix = schema_member(schema, "prefixItems");
  const Json* plain = schema_member(schema, "items");
  if (plain != nullptr && plain->is_array()) {  // before draft 2020-12
    items.prefix = plain;
    items.rest = schema_member(schema, "additionalItems");
  } else {
    items.rest = plain;
  }
  return items;
}

std::int64_t count_of(const Json& value) { return static_cast<std::int64_t>(value.get<double>()); }

const Json* schema_member(const Json& schema, std::string_view key) {
  if (!schema.is_object()) return nullptr;
  const auto found = schema.find(key);
  return found == schema.end() ? nullptr : &*found;
}

}  // namespace quern::grammar
