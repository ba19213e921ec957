// The fields that all generating routes share: how tokens are chosen, where generation ends, how
// the answer is sent. Must never apply a server's or checkpoint's default: that is sampling_plan.h.
// Proved by tests/server/chat_request_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/base/json.h"
#include "quern/grammar/structured_output.h"
#include "quern/server/field_reader.h"

namespace quern::server {

// Names and defaults: vLLM entrypoints/openai/chat_completion/protocol.py and
// completion/protocol.py.
struct SamplingRequest {
  std::string model;
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
  std::vector<std::pair<std::int64_t, double>> logit_bias;  // {"token id": bias} in the body
  std::optional<std::vector<std::int64_t>> allowed_token_ids;
  std::vector<std::string> bad_words;
  std::optional<std::int64_t> prompt_logprobs;
  std::vector<std::int64_t> logprob_token_ids;
  std::optional<std::int64_t> truncate_prompt_tokens;
  std::string truncation_side;  // "" is left
  std::shared_ptr<const grammar::StructuredOutput>
      structured_output;  // response_format and its like
  bool skip_special_tokens = true;
  bool return_token_ids = false;
  std::optional<bool> return_tokens_as_token_ids;  // none: --return-tokens-as-token-ids
  bool stream = false;
  bool include_usage = false;           // stream_options
  bool continuous_usage_stats = false;  // stream_options
  std::string request_id;
  std::string cache_salt;
  std::int64_t priority = 0;
};

// A body of more nesting than this is refused.
inline constexpr std::size_t kMaxJsonDepth = 64;

// The body as a JSON object. Throws ApiError with vLLM's text.
Json parse_body(std::string_view body);

// Reads the fields above; what does not fit becomes an entry of `reader`.
void read_sampling_request(FieldReader& reader, SamplingRequest& request);

// Their JSON Schemas by name.
Json sampling_schema();

// The rules between those fields. `body` is what the reader read. Throws ApiError.
void check_sampling_request(const SamplingRequest& request, const Json& body);

}  // namespace quern::server
