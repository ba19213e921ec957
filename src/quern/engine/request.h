// What goes into the engine and what comes out: one generation of one prompt.
// Must never know HTTP or a protocol's field names beyond the sampling parameters.
// Proved by tests/engine/sampling_params_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/base/error.h"
#include "quern/engine/encoder_cache.h"
#include "quern/grammar/token_mask.h"
#include "quern/vision/preprocess.h"

namespace quern::engine {

// A request that cannot be run; `parameter` names the field at fault ("" when none). A server
// answers 400.
class InvalidRequest : public Error {
 public:
  InvalidRequest(std::string message, std::string parameter)
      : Error(std::move(message)), parameter_(std::move(parameter)) {}
  const std::string& parameter() const { return parameter_; }

 private:
  std::string parameter_;
};

// Defaults and ranges: vLLM sampling_params.py.
struct SamplingParams {
  float temperature = 1.0F;  // < 1e-5 = greedy
  float top_p = 1.0F;
  int top_k = 0;  // 0 or -1 = all
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  std::optional<std::int64_t> seed;  // any number; vLLM's -1 for none stops at the server
  int max_tokens = 16;
  int min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_token_ids;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::vector<std::int32_t> allowed_token_ids;       // empty: all
  std::vector<std::vector<std::int32_t>> bad_words;  // sequences that the output never completes
  bool ignore_eos = false;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  // Look for stop strings inside reasoning too (vLLM before the fix of its issue 52393).
  bool stop_in_reasoning = false;
  std::optional<int> logprobs;  // number of top alternatives; 0 = only the chosen token, -1 = all
  std::optional<int> prompt_logprobs;           // the same of the prompt's tokens
  std::vector<std::int32_t> logprob_token_ids;  // in place of the top alternatives
  // Reasoning of more tokens than this is ended by force; none = as long as it takes.
  std::optional<int> thinking_token_budget;

  // Throws InvalidRequest with vLLM's texts, complete with its suffix where it has one
  // ("temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)").
  void validate(int vocab_size, int max_logprobs) const;
};

enum class FinishReason : std::uint8_t { kStop, kLength, kAbort, kError };
std::string_view finish_reason_name(FinishReason reason);  // "stop", "length", "abort", "error"

// Which numbers stand for the probabilities of generated tokens: before or behind penalties,
// biases, temperature, top_k, top_p and min_p; log-softmax or the logits themselves. A grammar's
// mask and prompts come before all of it.
enum class LogprobsMode : std::uint8_t {
  kRawLogprobs,
  kProcessedLogprobs,
  kRawLogits,
  kProcessedLogits
};

struct TokenLogprob {
  std::int32_t token_id = 0;
  float logprob = 0;
};

// One generated token with its log-probability (see LogprobsMode) and the top alternatives, most
// probable first.
struct TokenLogprobs {
  TokenLogprob chosen;
  int rank = 0;  // of the chosen token: 1 = none is more probable
  std::vector<TokenLogprob> top;
};

// What one step added to a generation.
struct Output {
  std::string text;                     // complete UTF-8, stop strings cut off
  std::vector<std::int32_t> token_ids;  // includes tokens whose text is held back
  std::vector<TokenLogprobs> logprobs;  // one a token when asked for
  // Of the prompt's tokens from the second on, in the first output only.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::optional<FinishReason> finish_reason;
  std::string stop_string;  // which stop string ended it
  std::optional<std::int32_t> stop_token_id;
  std::string error;  // for kError
  int prompt_tokens = 0;
  int cached_tokens = 0;      // prompt tokens taken from the prefix cache
  double queue_seconds = 0;   // from submit() to the first step that computed some of it
  int completion_tokens = 0;  // so far
};

// How the model marks its reasoning in the text; empty markers: it does not. A generation has at
// most one reasoning section, opened by the prompt or by the model.
struct ReasoningFormat {
  std::string start;                 // "<mm:think>"
  std::string end;                   // "</mm:think>"
  bool starts_in_reasoning = false;  // the rendered prompt ends inside reasoning
  bool is_over = false;              // the rendered prompt ends behind reasoning
};

// An image of a prompt: its features take the place of the embeddings of its placeholder tokens. A
// segment of a video stands in the prompt as several of these, a run of placeholders each, which
// share hash and patches.
struct ImageInput {
  int offset = 0;      // of the first placeholder, in the prompt
  int first_row = 0;   // of the features
  int num_tokens = 0;  // placeholders and rows
  ImageHash hash{};
  std::shared_ptr<const vision::ImagePatches> patches;  // shared by all generations of a request
};

struct GenerationRequest {
  std::string id;  // unique among live requests
  std::vector<std::int32_t> prompt;
  std::vector<ImageInput> images;  // by offset, not overlapping
  SamplingParams sampling;
  std::string cache_salt;
  std::int64_t priority = 0;  // lower ones go first
  ReasoningFormat reasoning;
  std::shared_ptr<const grammar::TokenGrammar> grammar;  // of the answer; null: free
  // Called on the engine thread, in order, the last time with finish_reason set. Must not block.
  std::function<void(Output)> on_output;
};

}  // namespace quern::engine
