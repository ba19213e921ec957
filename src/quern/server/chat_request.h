// The body of POST /v1/chat/completions as a plain struct: types checked, nulls replaced by
// defaults. Must never apply a server's or checkpoint's default: that is ChatService's. Proved by
// tests/server/chat_request_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/base/json.h"

namespace quern::server {

// Field names and defaults: vLLM entrypoints/openai/chat_completion/protocol.py. Unknown fields are
// ignored. Members of type Json are null when absent.
struct ChatRequest {
  Json messages;  // array of objects
  std::string model;
  std::optional<std::int64_t> max_completion_tokens;
  std::optional<std::int64_t> max_tokens;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<std::int64_t> top_k;
  std::optional<double> min_p;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::optional<double> repetition_penalty;
  std::optional<std::int64_t> seed;
  std::int64_t n = 1;
  std::vector<std::string> stop;  // a string or a list in the body
  std::vector<std::int64_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  std::int64_t min_tokens = 0;
  bool logprobs = false;
  std::int64_t top_logprobs = 0;
  std::vector<std::pair<std::int64_t, double>> logit_bias;  // {"token id": bias} in the body
  bool stream = false;
  bool include_usage = false;           // stream_options
  bool continuous_usage_stats = false;  // stream_options
  Json tools;                           // array, never empty
  Json tool_choice;                     // string, or object that names a function
  bool parallel_tool_calls = true;
  bool include_reasoning = true;
  std::string chat_template;
  Json chat_template_kwargs;  // object
  std::string reasoning_effort;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool echo = false;
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  std::string request_id;
  std::string cache_salt;
};

// A body of more nesting than this is refused.
inline constexpr std::size_t kMaxJsonDepth = 64;

// Throws ApiError with vLLM's texts: one entry for each field of a wrong type (at most 10 are
// shown), else the first rule between fields that is broken.
ChatRequest parse_chat_request(std::string_view body);

}  // namespace quern::server
