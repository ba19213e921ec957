// See schema_reader.h. Here: a plain validator.
#include "quern/grammar/schema_reader.h"

#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/grammar/schema_values.h"

namespace quern::grammar {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

bool SchemaReader::valid(const Json& instance, const Conjunction& entries, int depth) {
  if (depth > kMaxDepth) throw Error("json schema: values are nested too deeply");
  return std::ranges::any_of(alternatives(entries), [&](const Conjunction& flat) {
    return valid_flat(instance, flat, depth);
  });
}

bool SchemaReader::valid_flat(const Json& instance, const Conjunction& flat, int depth) {
  tick();
  const unsigned type = type_of(instance);
  if ((types(flat) & type) == 0 && !(type == kIntegerType && (types(flat) & kNumberType) != 0)) {
    return false;
  }
  for (const SchemaEntry& entry : flat) {
    const Json* fixed = schema_member(*entry.schema, "const");
    if (fixed != nullptr && !equal_values(*fixed, instance)) return false;
    const Json* list = schema_member(*entry.schema, "enum");
    if (list != nullptr && std::ranges::none_of(*list, [&](const Json& value) {
          return equal_values(value, instance);
        })) {
      return false;
    }
  }
  if (instance.is_string()) {
    return !constrains_text(flat) || text(flat).accepts(instance.get_ref<const std::string&>());
  }
  if (instance.is_number()) {
    const NumberBounds bounds = numbers(flat);
    const double value = instance.get<double>();
    const auto past = [](double a, double b, bool exclusive) { return exclusive ? a <= b : a < b; };
    if (bounds.low && past(value, bounds.low->value, bounds.low->exclusive)) return false;
    if (bounds.high && past(bounds.high->value, value, bounds.high->exclusive)) return false;
    return std::ranges::all_of(bounds.multiples, [&](std::int64_t multiple) {
      return std::fmod(value, static_cast<double>(multiple)) == 0;
    });
  }
  if (instance.is_object()) return valid_object(instance, flat, depth);
  return !instance.is_array() || valid_array(instance, flat, depth);
}

bool SchemaReader::valid_object(const Json& instance, const Conjunction& flat, int depth) {
  const ObjectShape shape = object(flat);
  const auto size = static_cast<std::int64_t>(instance.size());
  if (size < shape.min || size > shape.max.value_or(size)) return false;
  for (const auto& [name, value] : instance.items()) {
    const auto property = std::ranges::find(shape.properties, name, &ObjectShape::Property::name);
    const Conjunction* schema = property == shape.properties.end() ? nullptr : &property->value;
    for (const ObjectShape::Keys& keys : shape.more) {
      if (schema == nullptr && (keys.any || keys.names.accepts(name))) schema = &keys.value;
    }
    if (schema == nullptr || !valid(value, *schema, depth + 1)) return false;
  }
  return std::ranges::all_of(shape.properties, [&](const ObjectShape::Property& property) {
    return !property.required || instance.contains(property.name);
  });
}

bool SchemaReader::valid_array(const Json& instance, const Conjunction& flat, int depth) {
  const ArrayShape shape = array(flat);
  const auto size = static_cast<std::int64_t>(instance.size());
  if (size < shape.min || size > shape.max.value_or(size)) return false;
  for (std::size_t i = 0; i < instance.size(); ++i) {
    if (i >= shape.prefix.size() && !shape.rest) return false;
    if (!valid(instance[i], i < shape.prefix.size() ? shape.prefix[i] : *shape.rest, depth + 1)) {
      return false;
    }
  }
  return true;
}

}  // namespace quern::grammar
