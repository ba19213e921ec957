// See chat_answer.h.
#include "quern/server/chat_answer.h"

#include <iterator>
#include <utility>

#include "quern/server/api_error.h"

namespace quern::server {

ChatAnswer::ChatAnswer(const ChatPlan& plan)
    : plan_(plan),
      open_(static_cast<std::size_t>(plan.n)),
      prompt_tokens_(static_cast<int>(plan.prompt.size())) {
  for (int i = 0; i < plan.n; ++i) {
    choices_.push_back(
        {OutputParser(plan.parser, plan.tools), {}, 0, false, plan.parser.starts_in_reasoning, 0});
    choices_.back().held.choice = i;
  }
}

std::optional<ChatDelta> ChatAnswer::feed(int index, engine::Output output) {
  Choice& choice = choices_.at(static_cast<std::size_t>(index));
  if (choice.ended) return std::nullopt;
  if (output.finish_reason == engine::FinishReason::kError) {
    throw ApiError(500, output.error.empty() ? "The generation failed." : output.error);
  }
  cached_tokens_ = output.cached_tokens;
  if (!output.prompt_logprobs.empty()) prompt_logprobs_ = std::move(output.prompt_logprobs);
  choice.completion_tokens = output.completion_tokens;
  count_reasoning(choice, output.token_ids);

  for (OutputEvent& event : choice.parser.feed(output.text)) add_event(choice, std::move(event));
  ChatDelta& held = choice.held;
  if (plan_.include_reasoning || choice.parser.reasoning_ended()) {
    std::move(output.logprobs.begin(), output.logprobs.end(), std::back_inserter(held.logprobs));
    held.token_ids.insert(held.token_ids.end(), output.token_ids.begin(), output.token_ids.end());
  }
  if (output.finish_reason) end_choice(choice, output);
  held.completion_tokens = choice.completion_tokens;
  const bool shown = held.has_message() || !held.finish_reason.empty() ||
                     (plan_.return_token_ids && !held.token_ids.empty());
  if (!shown) return std::nullopt;
  ChatDelta next;
  next.choice = index;
  return std::exchange(held, std::move(next));
}

// Without the markers themselves.
void ChatAnswer::count_reasoning(Choice& choice, const std::vector<std::int32_t>& tokens) const {
  for (const std::int32_t token : tokens) {
    if (token == plan_.think_start_id) {
      choice.in_reasoning = true;
    } else if (token == plan_.think_end_id) {
      choice.in_reasoning = false;
    } else {
      choice.reasoning_tokens += choice.in_reasoning ? 1 : 0;
    }
  }
}

void ChatAnswer::add_event(Choice& choice, OutputEvent event) {
  ChatDelta& held = choice.held;
  switch (event.kind) {
    case OutputEvent::Kind::kReasoning:
      if (plan_.include_reasoning) held.reasoning += event.text;
      return;
    case OutputEvent::Kind::kContent:
      held.content += event.text;
      return;
    case OutputEvent::Kind::kToolCallStart:
      if (event.tool_index > 0 && !plan_.parallel_tool_calls) return;
      held.tool_calls.push_back(
          {event.tool_index, std::move(event.tool_call_id), std::move(event.text), {}});
      return;
    case OutputEvent::Kind::kToolArguments:
      if (event.tool_index > 0 && !plan_.parallel_tool_calls) return;
      if (held.tool_calls.empty() || held.tool_calls.back().index != event.tool_index) {
        held.tool_calls.push_back({event.tool_index, {}, {}, {}});
      }
      held.tool_calls.back().arguments += event.text;
      return;
  }
}

void ChatAnswer::end_choice(Choice& choice, const engine::Output& output) {
  for (OutputEvent& event : choice.parser.finish()) add_event(choice, std::move(event));
  choice.ended = true;
  --open_;
  ChatDelta& held = choice.held;
  held.finish_reason = std::string(engine::finish_reason_name(*output.finish_reason));
  const bool called = choice.parser.tool_calls() > 0 && !plan_.named_tool;
  if (called && output.finish_reason != engine::FinishReason::kAbort) {
    held.finish_reason = "tool_calls";
  }
  if (!output.stop_string.empty()) {
    held.stop_reason = output.stop_string;
  } else if (output.stop_token_id) {
    held.stop_reason = *output.stop_token_id;
  }
}

Usage ChatAnswer::usage() const {
  Usage usage{prompt_tokens_, 0, cached_tokens_};
  for (const Choice& choice : choices_) {
    usage.completion_tokens += choice.completion_tokens;
    usage.reasoning_tokens += choice.reasoning_tokens;
  }
  return usage;
}

void ChatCompletion::add(const ChatDelta& delta) {
  const auto index = static_cast<std::size_t>(delta.choice);
  if (choices.size() <= index) choices.resize(index + 1);
  ChatChoice& choice = choices[index];
  choice.reasoning += delta.reasoning;
  choice.content += delta.content;
  for (const ToolCallDelta& call : delta.tool_calls) {
    if (choice.tool_calls.empty() || choice.tool_calls.back().index != call.index) {
      choice.tool_calls.push_back(call);
    } else {
      choice.tool_calls.back().arguments += call.arguments;
    }
  }
  choice.logprobs.insert(choice.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
  choice.token_ids.insert(choice.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  if (!delta.finish_reason.empty()) {
    choice.finish_reason = delta.finish_reason;
    choice.stop_reason = delta.stop_reason;
  }
}

}  // namespace quern::server
