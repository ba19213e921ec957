// Converts the parameter elements of one MiniMax-M3 tool call to JSON text, guided by the tool's
// schema. Must never fail: text that fits no type of its schema stays a string. Proved by
// tests/text/tool_parser_test.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"

namespace quern {

inline constexpr std::size_t kMaxElementDepth = 128;

// <name>text with children</name>; `text` joins all pieces between the children.
struct Element {
  std::string name;
  std::string text;
  std::vector<Element> children;
};

// The JSON schema of a tool's parameters: {"properties": {...}} or null. Looks the tool up by its
// name in a request's "tools" (Chat Completions or Responses form); the first of that name counts.
const Json* find_tool_parameters(const Json& tools, std::string_view name);

// The schema of one parameter, null when there is none.
const Json* find_property(const Json* parameters, std::string_view name);

// The first array or object alternative of a schema: how an element with children is read.
struct Container {
  bool array = false;
  const Json* schema = nullptr;  // null: none
};
Container find_container(const Json& schema);

// The schema of a member of an object: its property's, else that of additional properties, or null.
const Json* child_schema(const Json* schema, std::string_view name);

// A leaf of this schema is taken verbatim as a string.
bool is_string_only(const Json& schema);

// The value of one element by its own schema, which may be null.
std::string convert_element(const Element& element, const Json* schema);

// The value of one parameter as json.dumps(..., ensure_ascii=False) writes it. `parameters` may be
// null.
std::string convert_parameter(const Element& parameter, const Json* parameters);

// The parameters as one JSON object; a repeated name becomes a list of its values.
std::string convert_parameters(std::span<const Element* const> elements, const Json* parameters);
std::string convert_parameters(std::span<const Element> elements, const Json* parameters);

}  // namespace quern
