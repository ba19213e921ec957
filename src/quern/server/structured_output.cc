// See structured_output.h. Rules: vLLM sampling_params.py, StructuredOutputsParams, and
// entrypoints/openai/chat_completion/protocol.py.
#include "quern/server/structured_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "quern/base/error.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

using grammar::StructuredOutput;

const Json* given(const Json& object, std::string_view key) {
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string text_field(const Json& value, const std::string& field) {
  if (!value.is_string()) {
    throw parameter_error(fmt::format("`{}` must be a string.", field), field, value);
  }
  return value.get<std::string>();
}

bool flag(const Json& object, const char* key, const std::string& field) {
  const Json* value = given(object, key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    throw parameter_error(fmt::format("`{}.{}` must be a boolean.", field, key), field, *value);
  }
  return value->get<bool>();
}

// A schema as an object, or as its JSON text.
Json schema_of(const Json& value, const std::string& field) {
  if (value.is_object() || value.is_boolean()) return value;
  const std::string text = text_field(value, field);
  try {
    return parse_json(text, field, {.max_depth = 64, .reject_duplicate_keys = false});
  } catch (const Error& error) {
    throw ApiError(400, error.what(), field);
  }
}

// The constraints that structured_outputs may hold: exactly one.
constexpr auto kConstraints = std::to_array<std::string_view>(
    {"json", "regex", "choice", "grammar", "json_object", "structural_tag"});

void set_constraint(const std::string& kind, const Json& value, const std::string& field,
                    StructuredOutput& output) {
  if (kind == "json") {
    output.kind = StructuredOutput::Kind::kJsonSchema;
    output.schema = schema_of(value, field);
  } else if (kind == "regex") {
    output.kind = StructuredOutput::Kind::kRegex;
    output.text = text_field(value, field);
  } else if (kind == "grammar") {
    output.kind = StructuredOutput::Kind::kGrammar;
    output.text = text_field(value, field);
  } else if (kind == "json_object") {
    output.kind = StructuredOutput::Kind::kJsonObject;
  } else if (kind == "choice") {
    output.kind = StructuredOutput::Kind::kChoice;
    const bool texts = value.is_array() && !value.empty() &&
                       std::ranges::all_of(value, [](const Json& c) { return c.is_string(); });
    if (!texts) {
      throw parameter_error(fmt::format("`{}` must be a non-empty list of strings.", field), field,
                            value);
    }
    output.choices = value.get<std::vector<std::string>>();
  } else {
    throw ApiError(400,
                   fmt::format("`{}` is not supported: use json, regex, choice or grammar.", field),
                   field);
  }
}

// (kind, value, name of the field) of each constraint in the body.
struct Constraint {
  std::string kind;
  const Json* value;
  std::string field;
};

void add_response_format(const Json& format, std::vector<Constraint>& found) {
  const Json* type = format.is_object() ? given(format, "type") : nullptr;
  if (type == nullptr || !type->is_string()) {
    throw parameter_error("`response_format` must be an object with a `type`.", "response_format",
                          format);
  }
  if (*type == "text") return;
  if (*type == "json_object") {
    found.push_back({"json_object", type, "response_format"});
  } else if (*type == "json_schema") {
    const Json* wrapper = given(format, "json_schema");
    const Json* schema =
        wrapper != nullptr && wrapper->is_object() ? given(*wrapper, "schema") : nullptr;
    if (schema == nullptr) {
      throw parameter_error("`response_format` of type json_schema needs `json_schema.schema`.",
                            "response_format", format);
    }
    found.push_back({"json", schema, "response_format"});
  } else if (*type == "structural_tag") {
    found.push_back({"structural_tag", &format, "response_format.structural_tag"});
  } else {
    throw parameter_error(
        fmt::format("`response_format.type` must be text, json_object or json_schema, got {}.",
                    python_repr(*type, 64)),
        "response_format", *type);
  }
}

}  // namespace

std::shared_ptr<const StructuredOutput> read_structured_output(const Json& body) {
  std::vector<Constraint> found;
  StructuredOutput output;
  if (const Json* options = given(body, "structured_outputs")) {
    const std::string field = "structured_outputs";
    if (!options->is_object()) {
      throw parameter_error("`structured_outputs` must be an object.", field, *options);
    }
    for (const std::string_view kind : kConstraints) {
      const Json* value = given(*options, kind);
      if (value == nullptr || (kind == "json_object" && *value == false)) continue;
      found.push_back({std::string(kind), value, fmt::format("{}.{}", field, kind)});
    }
    if (found.empty() && given(body, "response_format") == nullptr) {
      throw ApiError(
          400, "You must use one kind of structured outputs constraint but none are specified.",
          field);
    }
    output.any_whitespace = !flag(*options, "disable_any_whitespace", field);
    if (const Json* pattern = given(*options, "whitespace_pattern")) {
      output.whitespace_regex = text_field(*pattern, field + ".whitespace_pattern");
    }
  }
  for (const std::string_view kind : kConstraints) {
    const std::string field = fmt::format("guided_{}", kind);
    const Json* value = given(body, field);
    if (value != nullptr && *value != false) found.push_back({std::string(kind), value, field});
  }
  if (const Json* pattern = given(body, "guided_whitespace_pattern")) {
    output.whitespace_regex = text_field(*pattern, "guided_whitespace_pattern");
  }
  if (const Json* format = given(body, "response_format")) add_response_format(*format, found);
  if (found.empty()) return {};
  if (found.size() > 1) {
    std::string names;
    for (const Constraint& constraint : found) {
      names += (names.empty() ? "" : ", ") + constraint.field;
    }
    throw ApiError(400,
                   fmt::format("You can only use one kind of structured outputs constraint but "
                               "multiple are specified: {}",
                               names),
                   found.front().field);
  }
  const Json* choice = given(body, "tool_choice");
  if (choice != nullptr && (choice->is_object() || *choice == "required")) {
    throw ApiError(400,
                   "You can only either use constraints for structured outputs or tools, not both.",
                   "tool_choice");
  }
  set_constraint(found.front().kind, *found.front().value, found.front().field, output);
  return std::make_shared<const StructuredOutput>(std::move(output));
}

std::optional<StructuredOutput> tool_output(const Json& tools, const std::string& choice,
                                            const Json& tool_choice, bool parallel) {
  if (!tools.is_array() || choice == "none") return {};
  const bool strict = std::ranges::any_of(tools, [](const Json& tool) {
    const Json* value = given(tool["function"], "strict");
    return value != nullptr && *value == true;
  });
  if (choice == "auto" && !strict) return {};
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kToolCalls;
  output.tools = tools;
  output.tool_options.mode =
      choice == "auto" ? grammar::ToolMode::kFree : grammar::ToolMode::kRequired;
  output.tool_options.parallel = parallel;
  if (choice == "named") output.tool_options.name = tool_choice["function"]["name"];
  return output;
}

}  // namespace quern::server
