#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "quern/engine/request.h"

namespace quern::engine {
namespace {

TEST(SamplingParams, RefusesWithThePeersTexts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const struct {
    std::function<void(SamplingParams&)> change;
    const char* message;  // "" = accepted
    const char* parameter;
  } rows[] = {
      {[](auto&) {}, "", ""},
      {[](auto& p) { p.temperature = 2; }, "", ""},
      {[](auto& p) { p.temperature = 3; },
       "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)", "temperature"},
      {[](auto& p) { p.temperature = -0.1F; },
       "temperature must be in [0, 2], got -0.1. (parameter=temperature, value=-0.1)",
       "temperature"},
      {[nan](auto& p) { p.temperature = nan; },
       "temperature must be in [0, 2], got nan. (parameter=temperature, value=nan)", "temperature"},
      {[](auto& p) { p.top_p = 0; },
       "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)", "top_p"},
      {[](auto& p) { p.top_k = -1; }, "", ""},
      {[](auto& p) { p.top_k = -2; }, "top_k must be 0 (disable), or at least 1, got -2.", "top_k"},
      {[](auto& p) { p.min_p = 1.5F; }, "min_p must be in [0, 1], got 1.5.", "min_p"},
      {[](auto& p) { p.presence_penalty = 2.5F; }, "presence_penalty must be in [-2, 2], got 2.5.",
       "presence_penalty"},
      {[](auto& p) { p.frequency_penalty = -3; }, "frequency_penalty must be in [-2, 2], got -3.0.",
       "frequency_penalty"},
      {[](auto& p) { p.repetition_penalty = 0; },
       "repetition_penalty must be greater than zero, got 0.0.", "repetition_penalty"},
      {[](auto& p) { p.max_tokens = 0; },
       "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)", "max_tokens"},
      {[](auto& p) { p.min_tokens = -1; }, "min_tokens must be greater than or equal to 0, got -1.",
       "min_tokens"},
      {[](auto& p) { p.min_tokens = 17; },
       "min_tokens must be less than or equal to max_tokens=16, got 17.", "min_tokens"},
      {[](auto& p) {
         p.stop = {"a", ""};
       },
       "stop cannot contain an empty string.", "stop"},
      {[](auto& p) { p.stop.assign(129, "a"); }, "stop can have at most 128 strings, got 129.",
       "stop"},
      {[](auto& p) { p.stop = {std::string(1025, 'a')}; },
       "a stop string can have at most 1024 bytes, got 1025.", "stop"},
      {[](auto& p) { p.logprobs = 20; }, "", ""},
      {[](auto& p) { p.logprobs = 21; },
       "Requested sample logprobs of 21, which is greater than max allowed: 20 "
       "(parameter=logprobs, value=21)",
       "logprobs"},
      {[](auto& p) { p.prompt_logprobs = -2; },
       "prompt_logprobs must be non-negative or -1, got -2. (parameter=prompt_logprobs, value=-2)",
       "prompt_logprobs"},
      {[](auto& p) { p.prompt_logprobs = -1; },
       "Requested prompt logprobs of 100, which is greater than max allowed: 20 "
       "(parameter=prompt_logprobs, value=-1)",
       "prompt_logprobs"},
      {[](auto& p) { p.allowed_token_ids = {100}; },
       "token_id(s) [100] in allowed_token_ids contain out-of-vocab token ids. Vocabulary size: "
       "100",
       "allowed_token_ids"},
      {[](auto& p) {
         p.logit_bias = {{100, 1.0F}};
       },
       "token_id(s) [100] in logit_bias contain out-of-vocab token ids. Vocabulary size: 100",
       "logit_bias"},
      {[](auto& p) { p.stop_token_ids = {-1}; },
       "token_id(s) [-1] in stop_token_ids contain out-of-vocab token ids. Vocabulary size: 100",
       "stop_token_ids"},
  };
  for (const auto& row : rows) {
    SamplingParams params;
    row.change(params);
    try {
      params.validate(/*vocab_size=*/100, /*max_logprobs=*/20);
      EXPECT_STREQ(row.message, "");
    } catch (const InvalidRequest& error) {
      EXPECT_STREQ(error.what(), row.message);
      EXPECT_EQ(error.parameter(), row.parameter);
    }
  }
}

TEST(FinishReason, Names) {
  EXPECT_EQ(finish_reason_name(FinishReason::kStop), "stop");
  EXPECT_EQ(finish_reason_name(FinishReason::kLength), "length");
  EXPECT_EQ(finish_reason_name(FinishReason::kAbort), "abort");
  EXPECT_EQ(finish_reason_name(FinishReason::kError), "error");
}

}  // namespace
}  // namespace quern::engine
