// See completion_response.h. Layout: vLLM entrypoints/openai/completion/protocol.py and serving.py.
#include "quern/server/completion_response.h"

#include <utility>

#include "quern/server/answer_json.h"
#include "quern/server/api_error.h"

namespace quern::server {

CompletionWriter::CompletionWriter(const CompletionPlan& plan, const Tokenizer& tokenizer,
                                   bool prompt_tokens_details)
    : plan_(plan), tokenizer_(tokenizer), prompt_tokens_details_(prompt_tokens_details) {
  for (int i = 0; i < plan.choices(); ++i) {
    choices_.push_back({.text = {},
                        .token_ids = {},
                        .logprobs = CompletionLogprobs(tokenizer, plan.first().tokens_as_ids),
                        .prompt_logprobs = {},
                        .finish_reason = {},
                        .stop_reason = nullptr});
  }
}

void CompletionWriter::feed(int index, engine::Output output) {
  Choice& choice = at(index);
  if (output.finish_reason == engine::FinishReason::kError) {
    throw ApiError(500, output.error.empty() ? "The generation failed." : output.error);
  }
  cached_tokens_ = output.cached_tokens;
  if (!std::exchange(choice.begun, true)) begin(index, choice, output);
  if (!plan_.only_echo) {
    choice.text += output.text;
    choice.token_ids.insert(choice.token_ids.end(), output.token_ids.begin(),
                            output.token_ids.end());
    for (const engine::TokenLogprobs& entry : output.logprobs) choice.logprobs.add(entry);
    choice.completion_tokens = output.completion_tokens;
  }
  if (output.finish_reason) end(choice, output);
}

// The prompt's part of the answer.
void CompletionWriter::begin(int index, Choice& choice, engine::Output& output) {
  choice.prompt_logprobs = std::move(output.prompt_logprobs);
  if (!plan_.echo) return;
  choice.text = plan_.prompt_texts[static_cast<std::size_t>(index / plan_.first().n)];
  if (!plan_.first().sampling.logprobs) return;
  choice.logprobs.add_first(plan_of(index).prompt.front());
  for (const engine::TokenLogprobs& entry : choice.prompt_logprobs) choice.logprobs.add(entry);
}

void CompletionWriter::end(Choice& choice, const engine::Output& output) {
  choice.finish_reason = std::string(engine::finish_reason_name(*output.finish_reason));
  if (!output.stop_string.empty()) {
    choice.stop_reason = output.stop_string;
  } else if (output.stop_token_id) {
    choice.stop_reason = *output.stop_token_id;
  }
}

std::string CompletionWriter::event(int index) {
  Choice& choice = at(index);
  const GenerationPlan& plan = plan_of(index);
  const bool first = choice.completion_tokens <= static_cast<int>(choice.token_ids.size());
  Json entry = {
      {"index", index},
      {"text", std::exchange(choice.text, {})},
      {"logprobs", plan.sampling.logprobs ? choice.logprobs.take() : Json(nullptr)},
      {"finish_reason", text_or_null(choice.finish_reason)},
      {"stop_reason", choice.stop_reason},
      {"prompt_token_ids", ids_or_null(plan.return_token_ids && first, plan.prompt)},
      {"token_ids", ids_or_null(plan.return_token_ids, std::exchange(choice.token_ids, {}))}};
  Json json = {{"id", plan.id},
               {"object", "text_completion"},
               {"created", plan.created},
               {"model", plan.model},
               {"choices", Json::array({std::move(entry)})}};
  if (plan.continuous_usage) {
    json["usage"] = usage_json({static_cast<int>(plan.prompt.size()), choice.completion_tokens, 0});
  }
  return sse_event(json);
}

std::string CompletionWriter::usage_event() const {
  const GenerationPlan& plan = plan_.first();
  return sse_event({{"id", plan.id},
                    {"object", "text_completion"},
                    {"created", plan.created},
                    {"model", plan.model},
                    {"choices", Json::array()},
                    {"usage", chunk_usage_json(usage(), prompt_tokens_details_)}});
}

std::string CompletionWriter::body() {
  Json choices = Json::array();
  for (int i = 0; i < plan_.choices(); ++i) {
    Choice& choice = at(i);
    const GenerationPlan& plan = plan_of(i);
    choices.push_back(
        {{"index", i},
         {"text", choice.text},
         {"logprobs", plan.sampling.logprobs ? choice.logprobs.take() : Json(nullptr)},
         {"finish_reason", choice.finish_reason},
         {"stop_reason", choice.stop_reason},
         {"token_ids", ids_or_null(plan.return_token_ids, choice.token_ids)},
         {"prompt_logprobs", prompt_logprobs_json(plan, choice.prompt_logprobs, tokenizer_)},
         {"prompt_token_ids", ids_or_null(plan.return_token_ids, plan.prompt)}});
  }
  const GenerationPlan& plan = plan_.first();
  return dump({{"id", plan.id},
               {"object", "text_completion"},
               {"created", plan.created},
               {"model", plan.model},
               {"choices", std::move(choices)},
               {"service_tier", nullptr},
               {"system_fingerprint", nullptr},
               {"usage", body_usage_json(usage(), prompt_tokens_details_)},
               {"kv_transfer_params", nullptr}});
}

Usage CompletionWriter::usage() const {
  Usage usage;
  for (const GenerationPlan& plan : plan_.prompts) {
    usage.prompt_tokens += static_cast<int>(plan.prompt.size());
  }
  for (const Choice& choice : choices_) usage.completion_tokens += choice.completion_tokens;
  usage.cached_tokens = cached_tokens_;
  return usage;
}

}  // namespace quern::server
