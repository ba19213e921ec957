// See openapi.h.
#include "quern/server/openapi.h"

#include <initializer_list>
#include <string_view>
#include <utility>

#include "quern/server/chat_request.h"
#include "quern/server/sampling_request.h"

namespace quern::server {
namespace {

Json type(const char* name) { return {{"type", name}}; }
Json or_null(const char* name) { return {{"type", Json::array({name, "null"})}}; }
Json list_of(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }
Json any_of(std::initializer_list<Json> kinds) { return {{"anyOf", Json(kinds)}}; }

// A schema of `properties`; other members are ignored by the server, so they are allowed.
Json object(Json properties, std::initializer_list<const char*> required = {}) {
  Json schema = {{"type", "object"}, {"properties", std::move(properties)}};
  for (const char* name : required) schema["required"].push_back(name);
  return schema;
}

Json message() {
  return object({{"role", type("string")},
                 {"content", any_of({type("string"), list_of(type("object")), type("null")})}},
                {"role"});
}

Json chat_tool() {
  return object({{"type", type("string")},
                 {"function", object({{"name", type("string")},
                                      {"description", or_null("string")},
                                      {"parameters", or_null("object")}},
                                     {"name"})}},
                {"function"});
}

// Fields that hold an answer to a form; their details are in docs/structured_output.md.
void add_structured_output(Json& properties) {
  properties["response_format"] =
      any_of({object({{"type", {{"enum", {"text", "json_object", "json_schema"}}}}}, {"type"}),
              type("null")});
  properties["structured_outputs"] =
      any_of({object({{"json", any_of({type("object"), type("string"), type("boolean")})},
                      {"regex", type("string")},
                      {"choice", list_of(type("string"))},
                      {"grammar", type("string")},
                      {"json_object", type("boolean")},
                      {"disable_any_whitespace", or_null("boolean")},
                      {"whitespace_pattern", or_null("string")}}),
              type("null")});
}

// "/v1/responses/{id}" has a parameter, and so on.
Json operation(const Route& route, std::string_view method) {
  Json result = {{"operationId", std::string(method) + " " + std::string(route.path)}};
  if (route.path.find("{id}") != std::string_view::npos) {
    result["parameters"] = Json::array(
        {{{"name", "id"}, {"in", "path"}, {"required", true}, {"schema", type("string")}}});
  }
  if (route.schema != nullptr && method == "POST") {
    result["requestBody"] = {{"required", true},
                             {"content", {{"application/json", {{"schema", route.schema()}}}}}};
  }
  const Json error = {{"description", "Error"},
                      {"content", {{"application/json", {{"schema", type("object")}}}}}};
  Json responses = {{"200", {{"description", "Success"}}}};
  for (const std::string_view media : route.media) {
    responses["200"]["content"][std::string(media)] = {
        {"schema", media == "application/json" ? type("object") : type("string")}};
  }
  for (const char* status :
       {"400", "401", "404", "405", "413", "422", "429", "500", "501", "503"}) {
    responses[status] = error;
  }
  result["responses"] = std::move(responses);
  return result;
}

}  // namespace

Json openapi_json(std::span<const Route> routes, const std::string& version) {
  Json paths = Json::object();
  for (const Route& route : routes) {
    for (const std::string_view method : route.methods) {
      paths[std::string(route.path)][lower_case(method)] = operation(route, method);
    }
  }
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "quern"}, {"version", version}}},
          {"paths", std::move(paths)}};
}

Json chat_schema() {
  Json properties = sampling_schema();
  add_structured_output(properties);
  properties.update(chat_fields_schema());
  properties["messages"] = list_of(message());
  properties["tools"] = any_of({list_of(chat_tool()), type("null")});
  properties["tool_choice"] =
      any_of({{{"enum", {"none", "auto", "required", nullptr}}},
              object({{"type", type("string")},
                      {"function", object({{"name", type("string")}}, {"name"})}},
                     {"function"})});
  properties["chat_template_kwargs"] = or_null("object");
  properties["documents"] = any_of({list_of(type("object")), type("null")});
  return object(std::move(properties), {"messages"});
}

Json completion_schema() {
  Json properties = sampling_schema();
  const Json ids = list_of({{"type", "integer"}, {"minimum", 0}});
  properties["prompt"] = any_of({type("string"), list_of(type("string")), ids, list_of(ids)});
  properties["max_tokens"] = or_null("integer");
  properties["logprobs"] = or_null("integer");
  properties["echo"] = or_null("boolean");
  add_structured_output(properties);
  return object(std::move(properties), {"prompt"});
}

Json tokenize_schema() {
  return any_of({object({{"model", or_null("string")},
                         {"prompt", type("string")},
                         {"return_token_strs", or_null("boolean")}},
                        {"prompt"}),
                 chat_schema()});
}

Json detokenize_schema() {
  return object({{"model", or_null("string")}, {"tokens", list_of(type("integer"))}}, {"tokens"});
}

Json responses_schema() {
  return object({{"input", any_of({type("string"), list_of(type("object"))})},
                 {"model", or_null("string")},
                 {"instructions", or_null("string")},
                 {"max_output_tokens", or_null("integer")},
                 {"temperature", or_null("number")},
                 {"top_p", or_null("number")},
                 {"top_k", or_null("integer")},
                 {"stream", or_null("boolean")},
                 {"store", or_null("boolean")},
                 {"previous_response_id", or_null("string")},
                 {"parallel_tool_calls", or_null("boolean")},
                 {"reasoning", or_null("object")},
                 {"text", or_null("object")},
                 {"tools", any_of({list_of(type("object")), type("null")})},
                 {"tool_choice", any_of({type("string"), type("object"), type("null")})}},
                {"input"});
}

Json count_tokens_schema() {
  return object(
      {{"model", type("string")},
       {"messages", list_of(message())},
       {"system", any_of({type("string"), list_of(type("object")), type("null")})},
       {"tools",
        any_of({list_of(
                    object({{"name", type("string")}, {"input_schema", type("object")}}, {"name"})),
                type("null")})},
       {"tool_choice", or_null("object")}},
      {"model", "messages"});
}

Json messages_schema() {
  Json schema = count_tokens_schema();
  Json& properties = schema["properties"];
  properties["max_tokens"] = {{"type", "integer"}, {"minimum", 1}};
  properties["stream"] = or_null("boolean");
  properties["temperature"] = or_null("number");
  properties["top_p"] = or_null("number");
  properties["top_k"] = or_null("integer");
  properties["stop_sequences"] = any_of({list_of(type("string")), type("null")});
  schema["required"].push_back("max_tokens");
  return schema;
}

}  // namespace quern::server
