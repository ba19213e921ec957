// From the fields of a request to what the engine takes: defaults of checkpoint and operator, words
// to tokens, limits. Must never look at a route's own fields.
// Proved by tests/server/api_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
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
  int max_in_flight = 4096;   // generations running and waiting; more are refused with 429
  GenerationConfig defaults;  // sampling defaults of the checkpoint or the operator
  bool stop_in_reasoning = false;
  bool priority_scheduling = false;  // --scheduling-policy priority
  bool tokens_as_ids = false;        // --return-tokens-as-token-ids
};

// A text that is tokenized whatever its number of tokens may have this many bytes.
inline constexpr std::size_t kMaxTextBytes = 16 << 20;

// The output tokens that a prompt must leave room for: what is asked for, else one. Throws ApiError
// for less than one.
std::int64_t wanted_tokens(std::optional<std::int64_t> asked);

// Refuses more generations (n of each prompt) than the server takes at once, before anything is
// made for them. Throws ApiError.
void check_generations(const SamplingRequest& request, std::size_t prompts,
                       const SamplingLimits& limits);

// Refuses a text that surely has more tokens than fit beside `output_tokens`, before time is spent
// on tokenizing it. Throws ApiError.
void check_text_length(const SamplingRequest& request, const SamplingLimits& limits,
                       const Tokenizer& tokenizer, std::int64_t output_tokens,
                       std::string_view text);

// About how many ids the engine holds for all generations of the plan.
std::size_t count_ids(const GenerationPlan& plan);
// Throws ApiError when all plans of a request together have too many.
void check_ids(std::size_t ids);

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
// The same for another prompt of the same request, from the plan of its first one.
void plan_sampling_like(const GenerationPlan& first, const SamplingRequest& request,
                        const SamplingLimits& limits, std::int64_t asked, GenerationPlan& plan);

// 32 random hex digits.
std::string random_id();
std::int64_t unix_time();

}  // namespace quern::server
