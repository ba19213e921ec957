// What a chat request has become (a plan for the engine) and what comes back from it, step by step:
// engine output to deltas of the message, deltas to the whole answer.
// Must never depend on how the engine cuts the text into steps, nor know HTTP.
// Proved by tests/server/chat_response_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/engine/request.h"
#include "quern/server/generation_plan.h"
#include "quern/text/output_parser.h"

namespace quern::server {

struct ChatPlan : GenerationPlan {
  std::string role = "assistant";
  OutputParserOptions parser;
  std::shared_ptr<const Json> tools;  // of the parsers of all choices; null: none are parsed
  bool named_tool = false;            // tool_choice names a function: finish_reason stays "stop"
  bool parallel_tool_calls = true;
  bool include_reasoning = true;
  // The markers of reasoning where they are tokens: what lies between is counted in usage.
  std::optional<std::int32_t> think_start_id, think_end_id;
  std::string echo;  // text that the answer begins with
};

struct ToolCallDelta {
  std::size_t index = 0;
  std::string id;  // set on the first delta of a call, with the name
  std::string name;
  std::string arguments;
};

// What one step of the engine adds to one choice.
struct ChatDelta {
  int choice = 0;
  std::string reasoning;
  std::string content;
  std::vector<ToolCallDelta> tool_calls;
  std::vector<engine::TokenLogprobs> logprobs;
  std::vector<std::int32_t> token_ids;
  std::string finish_reason;  // "" while it goes on
  Json stop_reason;           // a string, a token id, or null
  int completion_tokens = 0;  // of this choice so far

  bool has_message() const { return !reasoning.empty() || !content.empty() || !tool_calls.empty(); }
};

// Turns the outputs of all choices of a plan, which must outlive it, into deltas. Not thread-safe.
class ChatAnswer {
 public:
  explicit ChatAnswer(const ChatPlan& plan);
  explicit ChatAnswer(const ChatPlan&& plan) = delete;

  // Empty when the output shows nothing yet; its logprobs and ids then come with the next delta.
  // Throws ApiError (500) when the generation failed.
  std::optional<ChatDelta> feed(int choice, engine::Output output);

  // All choices have ended.
  bool finished() const { return open_ == 0; }
  Usage usage() const;
  const std::vector<engine::TokenLogprobs>& prompt_logprobs() const { return prompt_logprobs_; }

 private:
  struct Choice {
    OutputParser parser;
    ChatDelta held;  // what has not been shown yet
    int completion_tokens = 0;
    bool ended = false;
    bool in_reasoning = false;
    int reasoning_tokens = 0;
  };

  void count_reasoning(Choice& choice, const std::vector<std::int32_t>& tokens) const;
  void add_event(Choice& choice, OutputEvent event);
  void end_choice(Choice& choice, const engine::Output& output);

  const ChatPlan& plan_;
  std::vector<Choice> choices_;
  std::size_t open_;
  int prompt_tokens_;
  int cached_tokens_ = 0;
  std::vector<engine::TokenLogprobs> prompt_logprobs_;
};

struct ChatChoice {
  std::string reasoning;
  std::string content;
  std::vector<ToolCallDelta> tool_calls;  // whole calls
  std::vector<engine::TokenLogprobs> logprobs;
  std::vector<std::int32_t> token_ids;
  std::string finish_reason;
  Json stop_reason;
};

struct ChatCompletion {
  std::vector<ChatChoice> choices;
  std::vector<engine::TokenLogprobs> prompt_logprobs;
  Usage usage;

  void add(const ChatDelta& delta);
};

}  // namespace quern::server
