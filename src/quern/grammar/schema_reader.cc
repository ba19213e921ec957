// See schema_reader.h. Here: the schema as a document, its keywords and references.
#include "quern/grammar/schema_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quern/base/error.h"
#include "quern/grammar/schema_values.h"

namespace quern::grammar {
namespace {

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

}  // namespace quern::grammar
