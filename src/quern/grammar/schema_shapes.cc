// See schema_reader.h. Here: what may stand at a place.
#include "quern/grammar/schema_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "quern/base/error.h"
#include "quern/grammar/regex_grammar.h"
#include "quern/grammar/schema_formats.h"
#include "quern/grammar/schema_values.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxPatternProperties = 6;

}  // namespace

unsigned SchemaReader::types(const Conjunction& entries) const {
  unsigned result = kAllTypes;
  unsigned spoken = 0;
  bool named = false;
  for (const SchemaEntry& entry : entries) {
    const Json& schema = *entry.schema;
    if (const Json* type = schema_member(schema, "type")) {
      unsigned own = 0;
      if (type->is_string()) own = type_bits(type->get_ref<const std::string&>());
      if (type->is_array()) {
        for (const Json& name : *type) own |= type_bits(name.get_ref<const std::string&>());
      }
      result &= own;
      named = true;
    }
    const auto speaks = [&](std::initializer_list<std::string_view> keys, unsigned bits) {
      for (const std::string_view key : keys) {
        if (schema_member(schema, key) != nullptr) spoken |= bits;
      }
    };
    speaks({"properties", "required", "additionalProperties", "patternProperties", "minProperties",
            "maxProperties", "propertyNames"},
           kObjectType);
    speaks({"items", "prefixItems", "minItems", "maxItems"}, kArrayType);
    speaks({"pattern", "minLength", "maxLength", "format"}, kStringType);
    speaks({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
           kIntegerType | kNumberType);
  }
  if (options_.closed && !named && spoken != 0) result = spoken;
  return result;
}

std::optional<std::vector<Json>> SchemaReader::values(const Conjunction& entries) {
  for (const SchemaEntry& entry : entries) {
    std::vector<Json> result;
    std::set<std::string> known;
    const Json* fixed = schema_member(*entry.schema, "const");
    const Json* list = schema_member(*entry.schema, "enum");
    if (fixed == nullptr && list == nullptr) continue;
    const auto consider = [&](const Json& value) {
      if (known.insert(value.dump()).second && valid_flat(value, entries, 0)) {
        result.push_back(value);
      }
    };
    if (fixed != nullptr) {
      consider(*fixed);
    } else {
      for (const Json& value : *list) consider(value);
    }
    return result;
  }
  return {};
}

const CharAutomaton& SchemaReader::pattern(const Json& schema, const std::string& regex) {
  if (const auto known = patterns_.find(regex); known != patterns_.end()) return known->second;
  tick();
  try {
    return patterns_.emplace(regex, regex_automaton(regex, RegexMatch::kSearch)).first->second;
  } catch (const Error& error) {
    fail(schema, error.what());
  }
}

bool SchemaReader::constrains_text(const Conjunction& entries) const {
  return std::ranges::any_of(entries, [](const SchemaEntry& entry) {
    const Json& schema = *entry.schema;
    const Json* format = schema_member(schema, "format");
    return schema_member(schema, "pattern") != nullptr ||
           schema_member(schema, "maxLength") != nullptr ||
           (schema_member(schema, "minLength") != nullptr && schema["minLength"] != 0) ||
           (format != nullptr && format_regex(format->get_ref<const std::string&>()));
  });
}

CharAutomaton SchemaReader::text(const Conjunction& entries) {
  std::int64_t min = 0;
  std::optional<std::int64_t> max;
  for (const SchemaEntry& entry : entries) {
    if (const Json* length = schema_member(*entry.schema, "minLength")) {
      min = std::max(min, count_of(*length));
    }
    if (const Json* length = schema_member(*entry.schema, "maxLength")) {
      max = std::min(max.value_or(kLongestString), count_of(*length));
    }
  }
  if (min > kLongestString) {
    throw Error("json schema: 'minLength' {} is above the limit of {}", min, kLongestString);
  }
  CharAutomaton result = text_of_length(min, max);
  for (const SchemaEntry& entry : entries) {
    tick();
    if (const Json* regex = schema_member(*entry.schema, "pattern")) {
      result = intersect(result, pattern(*entry.schema, regex->get<std::string>()));
    }
    if (const Json* format = schema_member(*entry.schema, "format")) {
      if (const auto regex = format_regex(format->get_ref<const std::string&>())) {
        result = intersect(result, pattern(*entry.schema, std::string(*regex)));
      }
    }
  }
  return result;
}

NumberBounds SchemaReader::numbers(const Conjunction& entries) const {
  NumberBounds bounds;
  const auto raise = [&](double value, bool exclusive) {
    if (!bounds.low || value > bounds.low->value) {
      bounds.low = NumberBound{value, exclusive};
    } else if (value == bounds.low->value) {
      bounds.low->exclusive |= exclusive;
    }
  };
  const auto lower = [&](double value, bool exclusive) {
    if (!bounds.high || value < bounds.high->value) {
      bounds.high = NumberBound{value, exclusive};
    } else if (value == bounds.high->value) {
      bounds.high->exclusive |= exclusive;
    }
  };
  for (const SchemaEntry& entry : entries) {
    const Json& schema = *entry.schema;
    const Json* low = schema_member(schema, "minimum");
    const Json* high = schema_member(schema, "maximum");
    const Json* above = schema_member(schema, "exclusiveMinimum");
    const Json* below = schema_member(schema, "exclusiveMaximum");
    if (low != nullptr) raise(low->get<double>(), above != nullptr && *above == true);
    if (high != nullptr) lower(high->get<double>(), below != nullptr && *below == true);
    if (above != nullptr && above->is_number()) raise(above->get<double>(), true);
    if (below != nullptr && below->is_number()) lower(below->get<double>(), true);
    if (const Json* multiple = schema_member(schema, "multipleOf")) {
      bounds.multiples.push_back(count_of(*multiple));
    }
  }
  return bounds;
}

// `properties`: those that each entry declares.
Conjunction SchemaReader::value_of(const Conjunction& entries,
                                   const std::vector<Members>& properties,
                                   const std::string& name) {
  tick();
  Conjunction value;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Json& schema = *entries[i].schema;
    bool declared = false;
    if (const auto property = properties[i].find(name); property != properties[i].end()) {
      value.push_back({property->second, false});
      declared = true;
    }
    if (const Json* patterns = schema_member(schema, "patternProperties")) {
      for (const auto& [regex, property] : patterns->items()) {
        tick();
        if (!pattern(schema, regex).accepts(name)) continue;
        value.push_back({&property, false});
        declared = true;
      }
    }
    const Json* others = schema_member(schema, "additionalProperties");
    if (!declared && others != nullptr) value.push_back({others, false});
  }
  return normal(std::move(value));
}

ObjectShape SchemaReader::object(const Conjunction& entries) {
  ObjectShape shape;
  std::vector<Members> declared;
  std::vector<std::string> names, required;
  std::map<std::string, bool> known, needed;
  for (const SchemaEntry& entry : entries) {
    Members& members = declared.emplace_back();
    if (const Json* properties = schema_member(*entry.schema, "properties")) {
      for (const auto& [name, value] : properties->items()) {
        members.emplace(name, &value);
        if (known.emplace(name, true).second) names.push_back(name);
      }
    }
    if (const Json* list = schema_member(*entry.schema, "required");
        list != nullptr && list->is_array()) {
      for (const Json& name : *list) {
        if (needed.emplace(name.get<std::string>(), true).second) required.push_back(name);
      }
    }
    if (const Json* count = schema_member(*entry.schema, "minProperties")) {
      shape.min = std::max(shape.min, count_of(*count));
    }
    if (const Json* count = schema_member(*entry.schema, "maxProperties")) {
      shape.max = std::min(shape.max.value_or(count_of(*count)), count_of(*count));
    }
  }
  for (const std::string& name : required) {
    if (known.emplace(name, true).second) names.push_back(name);
  }
  for (const std::string& name : names) {
    shape.properties.push_back({name, value_of(entries, declared, name), needed.contains(name)});
  }
  add_keys(entries, names, shape);
  return shape;
}

// Keys that are not declared fall into classes by the patterns that they match.
void SchemaReader::add_keys(const Conjunction& entries, const std::vector<std::string>& declared,
                            ObjectShape& shape) {
  struct Pattern {
    const Json* owner;
    const CharAutomaton* keys;
    const Json* value;
  };
  std::vector<Pattern> patterns;
  bool said = false;  // something speaks of keys that are not declared
  bool declares = false;
  CharAutomaton allowed;
  bool all_allowed = true;
  const auto restrict_to = [&](const CharAutomaton& keys) {
    allowed = all_allowed ? keys : intersect(allowed, keys);
    all_allowed = false;
  };
  for (const SchemaEntry& entry : entries) {
    const Json& schema = *entry.schema;
    declares |= schema_member(schema, "properties") != nullptr;
    said |= schema_member(schema, "additionalProperties") != nullptr;
    if (const Json* properties = schema_member(schema, "patternProperties")) {
      said = true;
      for (const auto& [regex, value] : properties->items()) {
        patterns.push_back({&schema, &pattern(schema, regex), &value});
      }
    }
    if (const Json* names = schema_member(schema, "propertyNames")) {
      const std::vector<Conjunction> ways = alternatives({{names, false}});
      if (ways.size() > 1) fail(schema, "'propertyNames' with alternatives is not supported");
      CharAutomaton keys;
      if (!ways.empty() && (types(ways.front()) & kStringType) != 0) {
        if (const auto values = this->values(ways.front())) {
          std::vector<std::string> texts;
          for (const Json& value : *values) {
            if (value.is_string()) texts.push_back(value.get<std::string>());
          }
          keys = one_of(texts);
        } else {
          keys = text(ways.front());
        }
      }
      restrict_to(keys);
      std::erase_if(shape.properties, [&](const ObjectShape::Property& property) {
        return !property.required && !keys.accepts(property.name);
      });
      for (ObjectShape::Property& property : shape.properties) {
        static const Json kNever = false;
        if (!keys.accepts(property.name)) property.value = {{&kNever, false}};
      }
    }
  }
  if (options_.closed && declares && !said) return;
  if (patterns.size() > kMaxPatternProperties) {
    fail(*patterns.front().owner,
         fmt::format("'patternProperties' with more than {} patterns is not "
                     "supported",
                     kMaxPatternProperties));
  }
  if (!declared.empty()) {
    restrict_to(minus(all_allowed ? text_of_length(0, {}) : allowed, one_of(declared)));
  }
  if (!patterns.empty()) restrict_to(all_allowed ? text_of_length(0, {}) : allowed);
  for (std::size_t matched = 0; matched < (std::size_t{1} << patterns.size()); ++matched) {
    ObjectShape::Keys keys{allowed, all_allowed, {}};
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      const bool in = (matched >> i & 1) != 0;
      keys.names =
          in ? intersect(keys.names, *patterns[i].keys) : minus(keys.names, *patterns[i].keys);
      if (in) keys.value.push_back({patterns[i].value, false});
    }
    if (!keys.any && keys.names.empty()) continue;
    bool never = false;
    for (const SchemaEntry& entry : entries) {
      bool own = false;
      for (std::size_t i = 0; i < patterns.size(); ++i) {
        own |= (matched >> i & 1) != 0 && patterns[i].owner == entry.schema;
      }
      const Json* others = schema_member(*entry.schema, "additionalProperties");
      if (own || others == nullptr) continue;
      never |= *others == false;
      keys.value.push_back({others, false});
    }
    if (options_.closed && matched == 0 && !patterns.empty() &&
        std::ranges::none_of(entries, [](const SchemaEntry& entry) {
          return schema_member(*entry.schema, "additionalProperties") != nullptr;
        })) {
      continue;
    }
    if (never) continue;
    keys.value = normal(std::move(keys.value));
    shape.more.push_back(std::move(keys));
  }
}

ArrayShape SchemaReader::array(const Conjunction& entries) const {
  ArrayShape shape;
  std::size_t length = 0;
  bool said = false;
  for (const SchemaEntry& entry : entries) {
    const Items items = items_of(*entry.schema);
    if (items.prefix != nullptr) length = std::max(length, items.prefix->size());
    said |= items.rest != nullptr;
    if (const Json* count = schema_member(*entry.schema, "minItems")) {
      shape.min = std::max(shape.min, count_of(*count));
    }
    if (const Json* count = schema_member(*entry.schema, "maxItems")) {
      shape.max = std::min(shape.max.value_or(kLongestArray), count_of(*count));
    }
  }
  if (shape.min > kLongestArray) {
    throw Error("json schema: 'minItems' {} is above the limit of {}", shape.min, kLongestArray);
  }
  for (std::size_t i = 0; i < length; ++i) {
    Conjunction item;
    for (const SchemaEntry& entry : entries) {
      const Items items = items_of(*entry.schema);
      if (items.prefix != nullptr && i < items.prefix->size()) {
        item.push_back({&(*items.prefix)[i], false});
      } else if (items.rest != nullptr) {
        item.push_back({items.rest, false});
      }
    }
    shape.prefix.push_back(normal(std::move(item)));
  }
  Conjunction rest;
  bool never = options_.closed && length > 0 && !said;
  for (const SchemaEntry& entry : entries) {
    const Json* items = items_of(*entry.schema).rest;
    if (items == nullptr) continue;
    never |= *items == false;
    rest.push_back({items, false});
  }
  if (!never) shape.rest = normal(std::move(rest));
  return shape;
}

}  // namespace quern::grammar
