// Answers of /v1/messages: a message as a body or as events.
// Must never leave a content block open, nor give two blocks one index.
// Proved by tests/server/messages_test.cc.
#pragma once

#include <string>

#include "quern/base/json.h"
#include "quern/server/answer_stream.h"

namespace quern::server {

Json message_body(const ChatPlan& plan, const ChatCompletion& completion);

// {"type": "error", "error": {"type", "message"}}.
Json message_error(const ApiError& error);

// `plan` outlives it.
class MessageEvents final : public AnswerEvents {
 public:
  explicit MessageEvents(const ChatPlan& plan) : plan_(plan) {}

  std::string opening() override;
  std::string delta(const ChatDelta& delta) override;
  std::string closing(const Usage& usage) override;
  std::string failure(const ApiError& error) override;

 private:
  enum class Block { kNone, kThinking, kText, kToolUse };

  std::string start_block(Block kind, Json content);
  std::string block_delta(Json delta) const;
  std::string end_block();

  const ChatPlan& plan_;
  Block open_ = Block::kNone;
  int index_ = 0;
  std::string stop_reason_;
};

}  // namespace quern::server
