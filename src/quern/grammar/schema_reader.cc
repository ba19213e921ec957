// See schema_reader.h.
#include "quern/grammar/schema_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "quern/base/error.h"
#include "quern/grammar/regex_grammar.h"
#include "quern/grammar/schema_formats.h"
#include "quern/text/utf8.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxAlternatives = 256;  // of one place
constexpr std::size_t kMaxPatternProperties = 6;
constexpr int kMaxDepth = 64;

// Keywords that restrict an answer and are not implemented.
constexpr auto kRefused = std::to_array<std::string_view>({
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
});

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

// As the standard compares: 1 is 1.0, and the order of members does not count.
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

// The items behind the prefix, and how long the prefix is.
struct Items {
  const Json* prefix = nullptr;
  const Json* rest = nullptr;
};

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

std::string unescaped_pointer(std::string_view token) {
  std::string percent;
  for (std::size_t i = 0; i < token.size(); ++i) {
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'                     ? c - '0'
             : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                      : -1;
    };
    if (token[i] == '%' && i + 2 < token.size() && digit(token[i + 1]) >= 0 &&
        digit(token[i + 2]) >= 0) {
      percent += static_cast<char>(digit(token[i + 1]) * 16 + digit(token[i + 2]));
      i += 2;
    } else {
      percent += token[i];
    }
  }
  std::string result;
  for (std::size_t i = 0; i < percent.size(); ++i) {
    if (percent[i] == '~' && i + 1 < percent.size()) {
      result += percent[++i] == '1' ? '/' : '~';
    } else {
      result += percent[i];
    }
  }
  return result;
}

bool find_path(const Json& at, const Json& wanted, std::string& path) {
  if (&at == &wanted) return true;
  const std::size_t size = path.size();
  if (at.is_object()) {
    for (const auto& [key, value] : at.items()) {
      path += "/" + key;
      if (find_path(value, wanted, path)) return true;
      path.resize(size);
    }
  } else if (at.is_array()) {
    for (std::size_t i = 0; i < at.size(); ++i) {
      path += "/" + std::to_string(i);
      if (find_path(at[i], wanted, path)) return true;
      path.resize(size);
    }
  }
  return false;
}

}  // namespace

const Json* schema_member(const Json& schema, std::string_view key) {
  if (!schema.is_object()) return nullptr;
  const auto found = schema.find(key);
  return found == schema.end() ? nullptr : &*found;
}

SchemaReader::SchemaReader(const Json& schema, const SchemaOptions& options)
    : schema_(schema),
      options_(options),
      deadline_(std::chrono::steady_clock::now() + options.time) {
  if (!is_schema(schema)) {
    throw Error("json schema: expected an object or a boolean, found {}", schema.type_name());
  }
  index_names(schema);
}

void SchemaReader::tick() const {
  if (std::chrono::steady_clock::now() > deadline_) {
    throw Error("json schema: it takes too long to read; simplify it");
  }
}

std::string SchemaReader::path_of(const Json& schema) const {
  std::string path = "#";
  return find_path(schema_, schema, path) ? path : "#";
}

void SchemaReader::fail(const Json& schema, std::string_view what) const {
  throw Error("json schema, at '{}': {}", path_of(schema), what);
}

void SchemaReader::index_names(const Json& value) {
  if (value.is_object()) {
    if (const Json* id = schema_member(value, "$id"); id != nullptr && id->is_string()) {
      named_.emplace(id->get<std::string>(), &value);
    }
    if (const Json* anchor = schema_member(value, "$anchor");
        anchor != nullptr && anchor->is_string()) {
      named_.emplace("#" + anchor->get<std::string>(), &value);
    }
  }
  if (value.is_structured()) {
    for (const Json& child : value) index_names(child);
  }
}

// ---- keywords

void SchemaReader::check(const Json& schema) {
  if (!checked_.emplace(&schema, true).second || schema.is_boolean()) return;
  for (const auto& [key, value] : schema.items()) check_keyword(schema, key, value);
}

void SchemaReader::check_keyword(const Json& schema, const std::string& key, const Json& value) {
  const auto wrong = [&](std::string_view expected) {
    fail(schema, fmt::format("'{}' must be {}, found {}", key, expected, value.type_name()));
  };
  if (std::ranges::find(kRefused, key) != kRefused.end()) {
    fail(schema, fmt::format("the keyword '{}' is not supported", key));
  }
  if (key == "uniqueItems") {
    if (!value.is_boolean()) wrong("a boolean");
    if (value == true) fail(schema, "the keyword 'uniqueItems' is not supported");
  } else if (key == "type") {
    const auto known = [&](const Json& name) {
      return name.is_string() && type_bits(name.get_ref<const std::string&>()) != 0;
    };
    const bool good =
        value.is_array() ? !value.empty() && std::ranges::all_of(value, known) : known(value);
    if (!good) fail(schema, fmt::format("'type' is {}, which names no JSON type", value.dump()));
  } else if (key == "enum") {
    if (!value.is_array()) wrong("a list");
  } else if (key == "properties" || key == "patternProperties") {
    if (!value.is_object()) wrong("an object of schemas");
    for (const auto& [name, child] : value.items()) {
      if (!is_schema(child)) {
        fail(schema, fmt::format("'{}/{}' must be an object or a boolean", key, name));
      }
    }
  } else if (key == "required") {
    const bool good = value.is_array() &&
                      std::ranges::all_of(value, [](const Json& name) { return name.is_string(); });
    if (!good && !value.is_boolean())
      wrong("a list of names");  // a boolean: draft 3, in properties
  } else if (key == "additionalProperties" || key == "propertyNames" || key == "additionalItems") {
    if (!is_schema(value)) wrong("a schema");
  } else if (key == "items") {
    if (!is_schema(value) && !(value.is_array() && std::ranges::all_of(value, is_schema))) {
      wrong("a schema or a list of them");
    }
  } else if (key == "prefixItems" || key == "anyOf" || key == "oneOf" || key == "allOf") {
    if (!value.is_array() || value.empty() || !std::ranges::all_of(value, is_schema)) {
      wrong("a non-empty list of schemas");
    }
  } else if (key == "minItems" || key == "maxItems" || key == "minLength" || key == "maxLength" ||
             key == "minProperties" || key == "maxProperties") {
    if (!value.is_number() || value.get<double>() < 0 || (type_of(value) & kIntegerType) == 0 ||
        value.get<double>() > 9e15) {
      fail(schema, fmt::format("'{}' must be a non-negative integer, found {}", key, value.dump()));
    }
  } else if (key == "minimum" || key == "maximum") {
    if (!value.is_number()) wrong("a number");
  } else if (key == "exclusiveMinimum" || key == "exclusiveMaximum") {
    if (!value.is_number() && !value.is_boolean()) wrong("a number");  // a boolean: draft 4
  } else if (key == "multipleOf") {
    if (!value.is_number() || value.get<double>() <= 0) wrong("a positive number");
    if ((type_of(value) & kIntegerType) == 0) {
      fail(schema,
           fmt::format("'multipleOf' {} is not supported: only integers are", value.dump()));
    }
    if (value.get<double>() > static_cast<double>(kMaxMultiple)) {
      fail(schema, fmt::format("'multipleOf' {} is not supported: the limit is {}", value.dump(),
                               kMaxMultiple));
    }
  } else if (key == "pattern" || key == "format" || key == "$ref") {
    if (!value.is_string()) wrong("a string");
  }
}

const Json& SchemaReader::resolve(const Json& owner, const std::string& reference) const {
  if (reference == "#") return schema_;
  if (const auto named = named_.find(reference); named != named_.end()) return *named->second;
  if (!reference.starts_with("#/")) {
    fail(owner,
         fmt::format("'$ref' {} is not supported: only references into the schema itself are",
                     reference));
  }
  const Json* at = &schema_;
  std::string_view rest = std::string_view(reference).substr(2);
  for (bool more = true; more;) {
    const std::size_t slash = rest.find('/');
    more = slash != std::string_view::npos;
    const std::string token = unescaped_pointer(rest.substr(0, slash));
    if (more) rest.remove_prefix(slash + 1);
    const Json* next = schema_member(*at, token);
    if (next == nullptr && at->is_array() && !token.empty() && token.size() < 9 &&
        token.find_first_not_of("0123456789") == std::string::npos) {
      const auto position = static_cast<std::size_t>(std::stoul(token));
      if (position < at->size()) next = &(*at)[position];
    }
    if (next == nullptr) fail(owner, fmt::format("'$ref' {} points to nothing", reference));
    at = next;
  }
  if (!is_schema(*at)) fail(owner, fmt::format("'$ref' {} points to no schema", reference));
  return *at;
}

// ---- combinations

// Follows references and allOf. False: nothing can satisfy the entries.
bool SchemaReader::flatten(const Conjunction& entries, Conjunction& flat,
                           std::vector<Union>& unions) {
  std::vector<const Json*> work;
  std::map<const Json*, bool> seen;
  for (const SchemaEntry& entry : entries) {
    if (entry.own) {
      flat.push_back(entry);
    } else {
      work.push_back(entry.schema);
    }
  }
  for (std::size_t i = 0; i < work.size(); ++i) {
    const Json& schema = *work[i];
    if (!seen.emplace(&schema, true).second) continue;
    check(schema);
    if (schema.is_boolean()) {
      if (schema == false) return false;
      continue;
    }
    flat.push_back({&schema, true});
    if (const Json* reference = schema_member(schema, "$ref")) {
      work.push_back(&resolve(schema, reference->get<std::string>()));
    }
    if (const Json* all = schema_member(schema, "allOf")) {
      for (const Json& part : *all) work.push_back(&part);
    }
    for (const std::string_view keyword : {"anyOf", "oneOf"}) {
      const Json* branches = schema_member(schema, keyword);
      if (branches != nullptr) unions.push_back({&schema, branches, keyword});
    }
  }
  flat = normal(std::move(flat));
  return true;
}

std::vector<Conjunction> SchemaReader::alternatives(const Conjunction& entries) {
  std::vector<Conjunction> work = {entries};
  std::vector<Conjunction> result;
  std::size_t steps = 0;
  for (std::size_t i = 0; i < work.size(); ++i) {
    tick();
    Conjunction flat;
    std::vector<Union> unions;
    if (!flatten(work[i], flat, unions)) continue;
    if (unions.empty()) {
      if (std::ranges::find(result, flat) == result.end()) result.push_back(std::move(flat));
      continue;
    }
    // The first union is opened; the others stay with the branch.
    const Union choice = unions.front();
    for (const Union& other : unions) {
      if (other.keyword == "oneOf") check_one_of(other, flat);
    }
    for (const Json& branch : *choice.branches) {
      if (++steps > kMaxAlternatives) {
        fail(*choice.owner, fmt::format("'{}' leads to more than {} combinations", choice.keyword,
                                        kMaxAlternatives));
      }
      Conjunction next = flat;
      next.push_back({&branch, false});
      // Branches of the other unions: all at once, as their own product.
      std::vector<Conjunction> products = {next};
      for (std::size_t u = 1; u < unions.size(); ++u) {
        std::vector<Conjunction> longer;
        for (const Conjunction& product : products) {
          for (const Json& other : *unions[u].branches) {
            longer.push_back(product);
            longer.back().push_back({&other, false});
          }
        }
        if (longer.size() > kMaxAlternatives) {
          fail(*choice.owner, fmt::format("'{}' leads to more than {} combinations",
                                          unions[u].keyword, kMaxAlternatives));
        }
        products = std::move(longer);
      }
      for (Conjunction& product : products) work.push_back(normal(std::move(product)));
      if (work.size() > 4 * kMaxAlternatives) {
        fail(*choice.owner, fmt::format("'{}' leads to too many combinations", choice.keyword));
      }
    }
  }
  return result;
}

// A text that two branches match would be wrong: they must exclude each other.
void SchemaReader::check_one_of(const Union& choice, const Conjunction& base) {
  if (!checked_.emplace(choice.branches, true).second) return;
  for (std::size_t a = 0; a < choice.branches->size(); ++a) {
    for (std::size_t b = a + 1; b < choice.branches->size(); ++b) {
      Conjunction left = base;
      Conjunction right = base;
      left.push_back({&(*choice.branches)[a], false});
      right.push_back({&(*choice.branches)[b], false});
      if (disjoint(normal(left), normal(right), 0)) continue;
      fail(*choice.owner,
           fmt::format("'oneOf' is supported only where its branches exclude each other by type, "
                       "enum, const or a required property; branches {} and {} may both match: use "
                       "'anyOf'",
                       a, b));
    }
  }
}

bool SchemaReader::disjoint(const Conjunction& a, const Conjunction& b, int depth) {
  constexpr int kLookingInside = 4;
  if (depth > kLookingInside) return false;
  const std::vector<Conjunction> left = alternatives(a);
  const std::vector<Conjunction> right = alternatives(b);
  return std::ranges::all_of(left, [&](const Conjunction& l) {
    return std::ranges::all_of(right,
                               [&](const Conjunction& r) { return disjoint_flat(l, r, depth); });
  });
}

bool SchemaReader::disjoint_flat(const Conjunction& a, const Conjunction& b, int depth) {
  if (const auto values = this->values(a)) {
    return std::ranges::none_of(*values, [&](const Json& v) { return valid(v, b); });
  }
  if (const auto values = this->values(b)) {
    return std::ranges::none_of(*values, [&](const Json& v) { return valid(v, a); });
  }
  const unsigned common = types(a) & types(b);
  if (common == 0) return true;
  if (common == kObjectType) return disjoint_objects(a, b, depth);
  if (common == kStringType) return intersect(text(a), text(b)).empty();
  if ((common & ~(kIntegerType | kNumberType)) == 0) {
    const NumberBounds left = numbers(a);
    const NumberBounds right = numbers(b);
    const auto below = [](const NumberBounds& low, const NumberBounds& high) {
      return low.high && high.low &&
             (low.high->value < high.low->value ||
              (low.high->value == high.low->value && (low.high->exclusive || high.low->exclusive)));
    };
    return below(left, right) || below(right, left);
  }
  return false;
}

bool SchemaReader::disjoint_objects(const Conjunction& a, const Conjunction& b, int depth) {
  const ObjectShape left = object(a);
  const ObjectShape right = object(b);
  const auto find = [](const ObjectShape& shape, const std::string& name) {
    const auto found = std::ranges::find(shape.properties, name, &ObjectShape::Property::name);
    return found == shape.properties.end() ? nullptr : &*found;
  };
  const auto excludes = [&](const ObjectShape& one, const ObjectShape& other) {
    return std::ranges::any_of(one.properties, [&](const ObjectShape::Property& property) {
      if (!property.required) return false;
      const auto* same = find(other, property.name);
      if (same == nullptr) return other.more.empty();
      return same->required && disjoint(property.value, same->value, depth + 1);
    });
  };
  return excludes(left, right) || excludes(right, left);
}

// ---- what stands at a place

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

Conjunction SchemaReader::value_of(const Conjunction& entries, const std::string& name) {
  Conjunction value;
  for (const SchemaEntry& entry : entries) {
    const Json& schema = *entry.schema;
    bool declared = false;
    if (const Json* properties = schema_member(schema, "properties")) {
      if (const Json* property = schema_member(*properties, name)) {
        value.push_back({property, false});
        declared = true;
      }
    }
    if (const Json* patterns = schema_member(schema, "patternProperties")) {
      for (const auto& [regex, property] : patterns->items()) {
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
  std::vector<std::string> names, required;
  std::map<std::string, bool> known, needed;
  for (const SchemaEntry& entry : entries) {
    if (const Json* properties = schema_member(*entry.schema, "properties")) {
      for (const auto& [name, unused] : properties->items()) {
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
    shape.properties.push_back({name, value_of(entries, name), needed.contains(name)});
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

// ---- validation

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
