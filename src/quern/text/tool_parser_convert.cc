// See tool_parser_convert.h. The rules are those of vllm/parser/minimax_m3.py and of
// coerce_to_schema_type and extract_types_from_schema in vllm/tool_parsers/utils.py.
#include "quern/text/tool_parser_convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "quern/text/tool_parser_python.h"

namespace quern {
namespace {

using TypeNames = std::set<std::string, std::less<>>;

const Json* find_member(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::string_view text_of(const Json* json) {
  return json != nullptr && json->is_string()
             ? std::string_view(json->get_ref<const std::string&>())
             : std::string_view();
}

std::string ascii_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string_view json_type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "integer";
    case Json::value_t::number_float:
      return "number";
    case Json::value_t::array:
      return "array";
    case Json::value_t::object:
      return "object";
    default:
      return "string";
  }
}

// The type names a schema mentions, unchanged.
void collect_types(const Json& schema, TypeNames& types) {
  TypeNames own;
  if (const Json* type = find_member(schema, "type"); type != nullptr && type->is_string()) {
    own.emplace(text_of(type));
  } else if (type != nullptr && type->is_array()) {
    for (const Json& name : *type) {
      if (name.is_string()) own.emplace(text_of(&name));
    }
  }
  if (const Json* values = find_member(schema, "enum"); values != nullptr && values->is_array()) {
    for (const Json& value : *values) own.emplace(json_type_name(value));
  }
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    const Json* choices = find_member(schema, key);
    if (choices == nullptr || !choices->is_array()) continue;
    for (const Json& choice : *choices) collect_types(choice, own);
  }
  if (own.empty()) own.emplace("string");
  types.merge(own);
}

std::string normal_type(std::string_view name) {
  static const std::unordered_map<std::string_view, std::string_view> kAliases = {
      {"str", "string"},     {"text", "string"},      {"varchar", "string"}, {"char", "string"},
      {"enum", "string"},    {"int", "integer"},      {"int32", "integer"},  {"int64", "integer"},
      {"uint", "integer"},   {"uint32", "integer"},   {"uint64", "integer"}, {"long", "integer"},
      {"short", "integer"},  {"unsigned", "integer"}, {"float", "number"},   {"float32", "number"},
      {"float64", "number"}, {"double", "number"},    {"bool", "boolean"},   {"dict", "object"},
      {"arr", "array"},      {"list", "array"},       {"sequence", "array"}};
  std::string normal = ascii_lower(python::strip(name));
  const auto alias = kAliases.find(normal);
  return alias == kAliases.end() ? normal : std::string(alias->second);
}

TypeNames normal_types(const TypeNames& types) {
  TypeNames normal;
  for (const std::string& name : types) normal.insert(normal_type(name));
  return normal;
}

bool allows(const Json& type, std::string_view kind) {
  if (type.is_string()) return text_of(&type) == kind;
  return type.is_array() &&
         std::any_of(type.begin(), type.end(), [&](const Json& t) { return text_of(&t) == kind; });
}

}  // namespace

Container find_container(const Json& schema) {
  if (const Json* type = find_member(schema, "type"); type != nullptr && !type->is_null()) {
    if (allows(*type, "array")) return {true, &schema};
    if (allows(*type, "object")) return {false, &schema};
  } else {
    if (schema.contains("items")) return {true, &schema};
    if (schema.contains("properties") || schema.contains("additionalProperties")) {
      return {false, &schema};
    }
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    const Json* choices = find_member(schema, key);
    if (choices == nullptr || !choices->is_array()) continue;
    for (const Json& choice : *choices) {
      if (!choice.is_object()) continue;
      if (const Container found = find_container(choice); found.schema != nullptr) return found;
    }
  }
  return {};
}

namespace {

std::optional<std::string> coerce_number(std::string_view text) {
  const auto value = python::to_float(text);
  if (!value) return {};
  if (*value == 0) return "0";
  // An integral float becomes the integer it stands for, all digits of it.
  return *value == std::trunc(*value) ? fmt::format("{:.0f}", *value) : python::float_repr(*value);
}

std::optional<std::string> coerce_boolean(std::string_view text) {
  const std::string lower = ascii_lower(python::strip(text));
  if (lower == "true" || lower == "1") return "true";
  if (lower == "false" || lower == "0") return "false";
  return {};
}

std::optional<std::string> coerce_to(std::string_view type, std::string_view text) {
  if (type == "null")
    return ascii_lower(text) == "null" ? std::optional<std::string>("null") : std::nullopt;
  if (type == "integer") return python::to_int(text);
  if (type == "number") return coerce_number(text);
  if (type == "boolean") return coerce_boolean(text);
  if (type == "string") return python::json_string(text);
  return python::reformat_json(text, kMaxElementDepth);  // object, array: either kind
}

std::string convert_leaf(std::string_view text, const Json& schema) {
  TypeNames types;
  collect_types(schema, types);
  const Container container = find_container(schema);
  // The chat template renders an empty list or object as an empty element.
  if (container.schema != nullptr && !types.contains("string") && python::is_blank(text)) {
    return container.array ? "[]" : "{}";
  }
  const TypeNames normal = normal_types(types);
  for (const std::string_view type :
       {"null", "integer", "number", "boolean", "object", "array", "string"}) {
    if (!normal.contains(type)) continue;
    if (auto value = coerce_to(type, text)) return *std::move(value);
  }
  if (auto value = python::reformat_json(text, kMaxElementDepth)) return *std::move(value);
  return python::json_string(text);
}

}  // namespace

const Json* child_schema(const Json* schema, std::string_view name) {
  if (const Json* property = find_property(schema, name)) return property;
  return schema == nullptr ? nullptr : find_member(*schema, "additionalProperties");
}

namespace {

// Mixed text goes under a reserved name that no child uses.
std::string mixed_text_name(const std::vector<Element>& children) {
  std::unordered_set<std::string_view> taken;
  for (const Element& child : children) taken.insert(child.name);
  std::string name = "$text";
  while (taken.contains(name)) name.insert(name.begin(), '$');
  return name;
}

}  // namespace

std::string convert_element(const Element& element, const Json* schema) {
  if (schema != nullptr && !schema->is_object()) schema = nullptr;
  if (element.children.empty()) {
    return schema == nullptr ? python::json_string(element.text)
                             : convert_leaf(element.text, *schema);
  }

  std::vector<const Element*> children;
  for (const Element& child : element.children) children.push_back(&child);
  Element mixed;
  if (!python::is_blank(element.text)) {
    mixed.name = mixed_text_name(element.children);
    mixed.text = element.text;
    children.push_back(&mixed);
  }
  const Container container = schema == nullptr ? Container{} : find_container(*schema);
  if (!container.array) return convert_parameters(children, container.schema);

  const Json* items = find_member(*container.schema, "items");
  std::string list = "[";
  for (const Element* child : children) {
    if (list.size() > 1) list += ", ";
    list += convert_element(*child, items);
  }
  return list += ']';
}

const Json* find_tool_parameters(const Json& tools, std::string_view name) {
  if (!tools.is_array()) return nullptr;
  for (const Json& tool : tools) {
    const Json* function = find_member(tool, "function");
    const Json& description = function != nullptr ? *function : tool;
    if (const Json* own_name = find_member(description, "name");
        own_name != nullptr && own_name->is_string() && text_of(own_name) == name) {
      return find_member(description, "parameters");
    }
  }
  return nullptr;
}

const Json* find_property(const Json* parameters, std::string_view name) {
  if (parameters == nullptr) return nullptr;
  const Json* properties = find_member(*parameters, "properties");
  return properties == nullptr ? nullptr : find_member(*properties, name);
}

bool is_string_only(const Json& schema) {
  if (!schema.is_object()) return false;
  TypeNames types;
  collect_types(schema, types);
  return normal_types(types) == TypeNames{"string"} &&
         (types.contains("string") || find_container(schema).schema == nullptr);
}

std::string convert_parameter(const Element& parameter, const Json* parameters) {
  return convert_element(parameter, child_schema(parameters, parameter.name));
}

std::string convert_parameters(std::span<const Element* const> elements, const Json* parameters) {
  struct Member {
    std::string_view name;
    std::string values;
    bool repeated = false;
  };
  std::vector<Member> members;
  std::unordered_map<std::string_view, std::size_t> slots;
  for (const Element* element : elements) {
    std::string value = convert_parameter(*element, parameters);
    const auto [slot, added] = slots.try_emplace(element->name, members.size());
    if (added) {
      members.push_back({element->name, std::move(value)});
    } else {
      Member& first = members[slot->second];
      first.repeated = true;
      (first.values += ", ") += value;
    }
  }
  std::string object = "{";
  for (const Member& m : members) {
    if (object.size() > 1) object += ", ";
    object += python::json_string(m.name);
    object += m.repeated ? ": [" : ": ";
    object += m.values;
    if (m.repeated) object += ']';
  }
  return object += '}';
}

std::string convert_parameters(std::span<const Element> elements, const Json* parameters) {
  std::vector<const Element*> pointers;
  for (const Element& element : elements) pointers.push_back(&element);
  return convert_parameters(pointers, parameters);
}

}  // namespace quern
