// Writes the answers of /v1/completions: engine output to the bytes of a body or of a stream.
// Must never change the order of keys or leave out a null that vLLM sends: clients compare.
// Proved by tests/server/completion_test.cc (golden bytes).
#pragma once

#include <string>
#include <vector>

#include "quern/server/completion_request.h"
#include "quern/server/logprobs_json.h"

namespace quern::server {

// Takes the outputs of all choices of a plan, which outlives it; either events are taken after each
// output, or the body after the last. Not thread-safe.
class CompletionWriter {
 public:
  CompletionWriter(const CompletionPlan& plan, const Tokenizer& tokenizer,
                   bool prompt_tokens_details);

  // Throws ApiError (500) when the generation failed.
  void feed(int choice, engine::Output output);
  // What the last output of the choice adds, as an event.
  std::string event(int choice);
  std::string usage_event() const;
  std::string body();

 private:
  struct Choice {
    std::string text;  // not yet written, like the rest
    std::vector<std::int32_t> token_ids;
    CompletionLogprobs logprobs;
    std::vector<engine::TokenLogprobs> prompt_logprobs;
    std::string finish_reason;
    Json stop_reason;
    int completion_tokens = 0;
    bool begun = false;
  };

  const GenerationPlan& plan_of(int choice) const {
    return plan_.prompts[static_cast<std::size_t>(choice / plan_.first().n)];
  }
  Choice& at(int choice) { return choices_[static_cast<std::size_t>(choice)]; }
  void begin(int index, Choice& choice, engine::Output& output);
  void end(Choice& choice, const engine::Output& output);
  Usage usage() const;

  const CompletionPlan& plan_;
  const Tokenizer& tokenizer_;
  bool prompt_tokens_details_;
  std::vector<Choice> choices_;
  int cached_tokens_ = 0;
};

}  // namespace quern::server
