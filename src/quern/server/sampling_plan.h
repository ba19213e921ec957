// From the fields of a request to what the engine takes: defaults of checkpoint and operator, words
// to tokens, limits. Must never look at a route's own fields.
// Proved by tests/server/api_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quern/checkpoint/model_config.h"
#include "quern/server/generation_plan.h"
#include "quern/server/sampling_request.h"
#include "quern/text/tokenizer.h"

namespace quern::server {

// What the model and the operator say about every generation.
struct SamplingLimits {
  int max_model_len = 0;
  int vocab_size = 0;
  int max_logprobs = 20;
  GenerationConfig defaults;  // sampling defaults of the checkpoint or the operator
  bool stop_in_reasoning = false;
  bool priority_scheduling = false;  // --scheduling-policy priority
  bool tokens_as_ids = false;        // --return-tokens-as-token-ids
};

// The largest number of tokens that a prompt may have beside `output_tokens`.
std::int64_t max_prompt_tokens(const SamplingLimits& limits, std::int64_t output_tokens);

// Cuts the prompt as `truncate_prompt_tokens` asks; -1 = what fits beside the output.
void truncate_prompt(const SamplingRequest& request, const SamplingLimits& limits,
                     std::int64_t output_tokens, std::vector<std::int32_t>& prompt);

// Fills n, sampling and what both say about the answer; plan.prompt is there already. `asked` is
// the request's number of output tokens: one that does not fit is an error, none means what is
// left. Throws ApiError.
void plan_sampling(const SamplingRequest& request, const SamplingLimits& limits,
                   std::optional<std::int64_t> asked, std::optional<std::int64_t> logprobs,
                   const Tokenizer& tokenizer, GenerationPlan& plan);

// 32 random hex digits.
std::string random_id();
std::int64_t unix_time();

}  // namespace quern::server
