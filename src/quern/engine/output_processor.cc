#include "quern/engine/output_processor.h"

#include <algorithm>

namespace quern::engine {

OutputProcessor::OutputProcessor(const GenerationRequest& request, const Tokenizer& tokenizer,
                                 std::span<const TokenId> eos_token_ids, int max_model_len)
    : params_(request.sampling),
      eos_token_ids_(eos_token_ids),
      max_output_tokens_(std::min(request.sampling.max_tokens,
                                  max_model_len - static_cast<int>(request.prompt.size()))),
      decoder_(tokenizer, request.sampling.skip_special_tokens),
      stop_text_(request.sampling, request.reasoning) {}

void OutputProcessor::push(TokenId token, Output& output) {
  ++num_output_tokens_;
  output.token_ids.push_back(token);
  output.completion_tokens = num_output_tokens_;
  check_token(token, output);

  // The text of an EOS or stop token is not part of the answer.
  const bool hides_token =
      output.finish_reason == FinishReason::kStop && !params_.include_stop_str_in_output;
  std::string text = hides_token ? std::string() : decoder_.feed(token);
  if (output.finish_reason) text += decoder_.finish();
  output.text += stop_text_.push(text, num_output_tokens_ > params_.min_tokens);
  if (output.finish_reason) output.text += stop_text_.finish();
  if (stop_text_.matched() != nullptr) {
    output.finish_reason = FinishReason::kStop;
    output.stop_string = *stop_text_.matched();
    output.stop_token_id.reset();
  }
}

void OutputProcessor::check_token(TokenId token, Output& output) const {
  if (num_output_tokens_ < params_.min_tokens) return;
  if (!params_.ignore_eos && std::ranges::find(eos_token_ids_, token) != eos_token_ids_.end()) {
    output.finish_reason = FinishReason::kStop;
  } else if (std::ranges::find(params_.stop_token_ids, token) != params_.stop_token_ids.end()) {
    output.finish_reason = FinishReason::kStop;
    output.stop_token_id = token;
  } else if (num_output_tokens_ >= max_output_tokens_) {
    output.finish_reason = FinishReason::kLength;
  }
}

void OutputProcessor::push_end(TokenId token, Output& output) {
  ++num_output_tokens_;
  output.token_ids.push_back(token);
  finish(FinishReason::kStop, output);
}

void OutputProcessor::finish(FinishReason reason, Output& output) {
  output.completion_tokens = num_output_tokens_;
  output.finish_reason = reason;
  if (stop_text_.matched() != nullptr) return;
  output.text += stop_text_.push(decoder_.finish(), false);
  if (stop_text_.matched() == nullptr) output.text += stop_text_.finish();
}

}  // namespace quern::engine
