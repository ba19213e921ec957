// The body of POST /v1/responses as a body of /v1/chat/completions.
// Must never lose what a later turn needs: reasoning, calls and their results go into the history.
// Proved by tests/server/responses_test.cc.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "quern/base/json.h"

namespace quern::server {

struct ResponsesRequest {
  Json body;  // as sent
  Json chat;  // for read_chat_request()
  bool store = true;
};

// `history` returns the messages of an earlier response, or null when there is none of that id.
// Shape: vLLM entrypoints/openai/responses/protocol.py. Throws ApiError.
ResponsesRequest parse_responses_request(std::string_view body,
                                         const std::function<Json(const std::string&)>& history);

}  // namespace quern::server
