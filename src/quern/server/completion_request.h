// The body of POST /v1/completions as a plain struct, and what the engine is asked for it.
// Must never apply a chat template. Proved by tests/server/completion_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "quern/server/generation_plan.h"
#include "quern/server/sampling_plan.h"
#include "quern/server/sampling_request.h"

namespace quern::server {

// Field names and defaults: vLLM entrypoints/openai/completion/protocol.py.
struct CompletionRequest : SamplingRequest {
  using Prompt = std::variant<std::string, std::vector<std::int64_t>>;
  std::vector<Prompt> prompts;  // never empty
  std::int64_t max_tokens = 16;
  std::optional<std::int64_t> logprobs;
  bool echo = false;
};

// More prompts than this in one request are refused.
inline constexpr std::size_t kMaxCompletionPrompts = 1024;

// Throws ApiError with vLLM's texts.
CompletionRequest parse_completion_request(std::string_view body);

struct CompletionPlan {
  std::vector<GenerationPlan> prompts;    // equal but for the prompt
  std::vector<std::string> prompt_texts;  // one a prompt, with echo
  bool echo = false;
  bool only_echo = false;  // max_tokens 0: nothing of what is generated is shown

  const GenerationPlan& first() const { return prompts.front(); }
  int choices() const { return static_cast<int>(prompts.size()) * first().n; }
};

// Tokenizes and checks; takes time in the length of the prompts. Throws ApiError.
CompletionPlan plan_completion(const CompletionRequest& request, const SamplingLimits& limits,
                               const std::string& model_name, const Tokenizer& tokenizer);

}  // namespace quern::server
