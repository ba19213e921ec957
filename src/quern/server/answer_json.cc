// See answer_json.h.
#include "quern/server/answer_json.h"

#include <fmt/format.h>

#include "quern/server/api_error.h"

namespace quern::server {

Json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"completion_tokens", usage.completion_tokens}};
}

Json body_usage_json(const Usage& usage, bool details) {
  Json json = usage_json(usage);
  json["prompt_tokens_details"] = nullptr;
  if (details) json["prompt_tokens_details"] = {{"cached_tokens", usage.cached_tokens}};
  return json;
}

Json chunk_usage_json(const Usage& usage, bool details) {
  return details ? body_usage_json(usage, true) : usage_json(usage);
}

Json ids_or_null(bool wanted, const std::vector<std::int32_t>& ids) {
  Json json = nullptr;
  if (wanted) json = ids;
  return json;
}

Json text_or_null(const std::string& text) {
  Json json = nullptr;
  if (!text.empty()) json = text;
  return json;
}

std::string sse_event(const Json& json, std::string_view name) {
  return name.empty() ? fmt::format("data: {}\n\n", dump(json))
                      : fmt::format("event: {}\ndata: {}\n\n", name, dump(json));
}

}  // namespace quern::server
