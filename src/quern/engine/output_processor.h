// Turns the tokens of one generation into text and decides where it ends.
// Must never emit half a character or text behind the end.
// Proved by tests/engine/output_processor_test.cc.
#pragma once

#include <span>

#include "quern/engine/block_pool.h"
#include "quern/engine/request.h"
#include "quern/engine/stop_text.h"
#include "quern/text/tokenizer.h"

namespace quern::engine {

// Refers to the request, the tokenizer and the EOS ids, which outlive it.
class OutputProcessor {
 public:
  OutputProcessor(const GenerationRequest& request, const Tokenizer& tokenizer,
                  std::span<const TokenId> eos_token_ids, int max_model_len);

  // Takes the next token; sets text, token_ids, completion_tokens and, at the end, finish_reason
  // with what caused it. The order is that of vLLM v1/core/sched/utils.py, check_stop; a stop
  // string is looked for last and overrides the others.
  void push(TokenId token, Output& output);
  // Takes a token that ends the generation whatever the parameters say; its text is not shown.
  void push_end(TokenId token, Output& output);
  // The generation ends for another reason: the text that was held back.
  void finish(FinishReason reason, Output& output);

 private:
  void check_token(TokenId token, Output& output) const;

  const SamplingParams& params_;
  std::span<const TokenId> eos_token_ids_;
  int max_output_tokens_;
  int num_output_tokens_ = 0;
  IncrementalDecoder decoder_;
  StopText stop_text_;
};

}  // namespace quern::engine
