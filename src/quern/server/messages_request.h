// The body of POST /v1/messages (Anthropic's protocol) as a body of /v1/chat/completions.
// Must never lose what a later turn needs: thinking, calls and their results go into the history.
// Proved by tests/server/messages_test.cc.
#pragma once

#include <string_view>

#include "quern/base/json.h"

namespace quern::server {

// Rules: vLLM entrypoints/anthropic/serving.py. Without `needs_max_tokens` the field may be absent
// (count_tokens). Throws ApiError.
Json chat_body_of_messages(std::string_view body, bool needs_max_tokens);

}  // namespace quern::server
