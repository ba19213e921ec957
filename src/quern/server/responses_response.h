// Answers of /v1/responses: the response object, and the events that build it.
// Must never skip a sequence number, nor leave an item open.
// Proved by tests/server/responses_test.cc.
#pragma once

#include <string>

#include "quern/base/json.h"
#include "quern/server/answer_stream.h"
#include "quern/server/responses_request.h"

namespace quern::server {

// `status`: in_progress, completed, incomplete or failed. `usage` may be null.
Json response_json(const ChatPlan& plan, const ResponsesRequest& request, const std::string& status,
                   Json output, Json usage);

Json response_usage(const Usage& usage);
// "completed", or "incomplete" when the tokens were used up.
std::string response_status(const std::string& finish_reason);
// The items of a whole answer.
Json response_items(const ChatChoice& choice);
// What the answer adds to the history.
Json assistant_message(const ChatChoice& choice);

// `plan` and `request` outlive it.
class ResponseEvents final : public AnswerEvents {
 public:
  ResponseEvents(const ChatPlan& plan, const ResponsesRequest& request)
      : plan_(plan), request_(request) {}

  std::string opening() override;
  std::string delta(const ChatDelta& delta) override;
  std::string closing(const Usage& usage) override;
  std::string failure(const ApiError& error) override;

  // After closing().
  const Json& response() const { return response_; }
  const ChatChoice& choice() const { return completion_.choices.at(0); }

 private:
  enum class Item { kNone, kReasoning, kMessage, kCall };

  std::string event(const char* type, Json fields);
  std::string part_event(const char* type, Json fields);
  std::string open_text(Item kind);
  std::string open_call(const ToolCallDelta& call);
  std::string add_text(Item kind, const std::string& text);
  std::string close_item();

  const ChatPlan& plan_;
  const ResponsesRequest& request_;
  ChatCompletion completion_;
  Json items_ = Json::array();  // finished ones
  Item open_ = Item::kNone;
  std::string item_id_, call_id_, name_, text_;
  int sequence_ = 0;
  Json response_;
};

}  // namespace quern::server
