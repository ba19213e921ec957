// The pieces that bodies and streams of several routes share: usage, ids, events.
// Must never change the order of keys or leave out a null that vLLM sends: clients compare.
// Proved by tests/server/chat_response_test.cc (golden bytes).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/generation_plan.h"

namespace quern::server {

// {"prompt_tokens", "total_tokens", "completion_tokens"}.
Json usage_json(const Usage& usage);
// The same with prompt_tokens_details, null unless `details`.
Json body_usage_json(const Usage& usage, bool details);
// The same without nulls, as the last chunk of a stream has it.
Json chunk_usage_json(const Usage& usage, bool details);

Json ids_or_null(bool wanted, const std::vector<std::int32_t>& ids);
Json text_or_null(const std::string& text);

// "data: {...}\n\n"; with a name, an "event: NAME" line before it.
std::string sse_event(const Json& json, std::string_view name = {});
inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

}  // namespace quern::server
