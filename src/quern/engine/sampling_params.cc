#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quern/engine/request.h"

namespace quern::engine {
namespace {

// Bounds on the cost of looking for stop strings after every token; far above what clients send.
constexpr std::size_t kMaxStopStrings = 128;
constexpr std::size_t kMaxStopStringBytes = 1024;

// As Python prints a float: 3.0, 0.1, nan.
std::string number(float value) {
  std::string text = fmt::format("{}", value);
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}
std::string number(int value) { return fmt::format("{}", value); }

template <typename T>
void require(bool condition, const char* parameter, std::string_view rule, T value) {
  if (!condition) {
    throw InvalidRequest(fmt::format("{} {}, got {}.", parameter, rule, number(value)), parameter);
  }
}

// The same with the suffix of vLLM's VLLMValidationError.
template <typename T>
void require_named(bool condition, const char* parameter, std::string_view rule, T value) {
  if (!condition) {
    throw InvalidRequest(fmt::format("{} {}, got {}. (parameter={}, value={})", parameter, rule,
                                     number(value), parameter, number(value)),
                         parameter);
  }
}

void require_tokens(const char* parameter, std::int32_t token, int vocab_size) {
  if (token < 0 || token >= vocab_size) {
    throw InvalidRequest(
        fmt::format("token_id(s) [{}] in {} contain out-of-vocab token ids. Vocabulary size: {}",
                    token, parameter, vocab_size),
        parameter);
  }
}

void check_stop_strings(const std::vector<std::string>& stop) {
  if (stop.size() > kMaxStopStrings) {
    throw InvalidRequest(
        fmt::format("stop can have at most {} strings, got {}.", kMaxStopStrings, stop.size()),
        "stop");
  }
  for (const std::string& text : stop) {
    if (text.empty()) throw InvalidRequest("stop cannot contain an empty string.", "stop");
    if (text.size() > kMaxStopStringBytes) {
      throw InvalidRequest(fmt::format("a stop string can have at most {} bytes, got {}.",
                                       kMaxStopStringBytes, text.size()),
                           "stop");
    }
  }
}

void check_logprobs(const char* parameter, const char* kind, const std::optional<int>& count,
                    int vocab_size, int max_logprobs) {
  if (!count) return;
  require_named(*count >= -1, parameter, "must be non-negative or -1", *count);
  const int wanted = *count == -1 ? vocab_size : *count;
  if (max_logprobs != -1 && wanted > max_logprobs) {
    throw InvalidRequest(fmt::format("Requested {} logprobs of {}, which is greater than max "
                                     "allowed: {} (parameter={}, value={})",
                                     kind, wanted, max_logprobs, parameter, *count),
                         parameter);
  }
}

}  // namespace

// Conditions are written so that NaN fails them.
void SamplingParams::validate(int vocab_size, int max_logprobs) const {
  require(presence_penalty >= -2 && presence_penalty <= 2, "presence_penalty", "must be in [-2, 2]",
          presence_penalty);
  require(frequency_penalty >= -2 && frequency_penalty <= 2, "frequency_penalty",
          "must be in [-2, 2]", frequency_penalty);
  require(repetition_penalty > 0 && std::isfinite(repetition_penalty), "repetition_penalty",
          "must be greater than zero", repetition_penalty);
  require_named(temperature >= 0 && temperature <= 2, "temperature", "must be in [0, 2]",
                temperature);
  require_named(top_p > 0 && top_p <= 1, "top_p", "must be in (0, 1]", top_p);
  require(top_k >= -1, "top_k", "must be 0 (disable), or at least 1", top_k);
  require(min_p >= 0 && min_p <= 1, "min_p", "must be in [0, 1]", min_p);
  require_named(max_tokens >= 1, "max_tokens", "must be at least 1", max_tokens);
  require(min_tokens >= 0, "min_tokens", "must be greater than or equal to 0", min_tokens);
  require(min_tokens <= max_tokens, "min_tokens",
          fmt::format("must be less than or equal to max_tokens={}", max_tokens), min_tokens);
  check_stop_strings(stop);
  for (const std::int32_t token : stop_token_ids) {
    require_tokens("stop_token_ids", token, vocab_size);
  }
  for (const auto& [token, bias] : logit_bias) {
    require_tokens("logit_bias", token, vocab_size);
    require(std::isfinite(bias), "logit_bias", "must be finite", bias);
  }
  for (const std::int32_t token : allowed_token_ids) {
    require_tokens("allowed_token_ids", token, vocab_size);
  }
  for (const std::vector<std::int32_t>& word : bad_words) {
    QUERN_CHECK(!word.empty());
    for (const std::int32_t token : word) require_tokens("bad_words", token, vocab_size);
  }
  for (const std::int32_t token : logprob_token_ids) {
    require_tokens("logprob_token_ids", token, vocab_size);
  }
  if (thinking_token_budget) {
    require(*thinking_token_budget >= 0, "thinking_token_budget",
            "must be greater than or equal to 0", *thinking_token_budget);
  }
  check_logprobs("logprobs", "sample", logprobs, vocab_size, max_logprobs);
  check_logprobs("prompt_logprobs", "prompt", prompt_logprobs, vocab_size, max_logprobs);
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

}  // namespace quern::engine
