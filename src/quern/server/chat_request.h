// The body of POST /v1/chat/completions as a plain struct: types checked, nulls replaced by
// defaults. Must never apply a server's or checkpoint's default: that is ChatService's. Proved by
// tests/server/chat_request_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "quern/base/json.h"
#include "quern/server/sampling_request.h"

namespace quern::server {

// Unknown fields are ignored. Members of type Json are null when absent.
struct ChatRequest : SamplingRequest {
  Json messages;  // array of objects
  std::optional<std::int64_t> max_completion_tokens;
  std::optional<std::int64_t> max_tokens;
  bool logprobs = false;
  std::int64_t top_logprobs = 0;
  Json tools;        // array, never empty
  Json tool_choice;  // string, or object that names a function
  bool parallel_tool_calls = true;
  bool include_reasoning = true;
  std::string chat_template;
  std::optional<std::int64_t> thinking_token_budget;
  Json documents;             // array of objects
  Json chat_template_kwargs;  // object
  std::string reasoning_effort;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool echo = false;
};

// Throws ApiError with vLLM's texts: one entry for each field of a wrong type (at most 10 are
// shown), else the first rule between fields that is broken.
ChatRequest parse_chat_request(std::string_view body);
ChatRequest read_chat_request(const Json& body);
// JSON Schemas of the plain fields that only chat has, by name.
Json chat_fields_schema();

}  // namespace quern::server
