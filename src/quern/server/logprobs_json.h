// Log-probabilities as the API writes them: chat's entries, completions' parallel lists, the list
// of a prompt. Must never write a number that JSON has not (-inf becomes vLLM's -9999).
// Proved by tests/server/chat_response_test.cc and completion_response_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/generation_plan.h"
#include "quern/text/tokenizer.h"

namespace quern::server {

// The text of a token by itself, or "token_id:N".
std::string token_text(std::int32_t id, bool as_id, const Tokenizer& tokenizer);

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}.
Json chat_logprobs_json(const GenerationPlan& plan, std::span<const engine::TokenLogprobs> logprobs,
                        const Tokenizer& tokenizer);

// null when not asked for; else a list whose first element is null, then objects
// {"token id": {"logprob", "rank", "decoded_token"}}.
Json prompt_logprobs_json(const GenerationPlan& plan,
                          std::span<const engine::TokenLogprobs> logprobs,
                          const Tokenizer& tokenizer);

// The parallel lists of /v1/completions for one choice; grows token by token. Offsets count
// characters of the text that the choice has shown before the token.
class CompletionLogprobs {
 public:
  // `as_ids`: tokens are written as "token_id:N".
  CompletionLogprobs(const Tokenizer& tokenizer, bool as_ids)
      : tokenizer_(tokenizer), as_ids_(as_ids), decoder_(tokenizer, false) {}

  // The first token of an echoed prompt: nothing precedes it that could predict it.
  void add_first(std::int32_t token);
  void add(const engine::TokenLogprobs& logprobs);
  // {"text_offset", "token_logprobs", "tokens", "top_logprobs"} of what was added since the last
  // call.
  Json take();

 private:
  void add_token(std::int32_t token);

  const Tokenizer& tokenizer_;
  bool as_ids_;
  IncrementalDecoder decoder_;
  std::int64_t characters_ = 0;
  Json offsets_ = Json::array(), logprobs_ = Json::array(), tokens_ = Json::array(),
       top_ = Json::array();
};

}  // namespace quern::server
