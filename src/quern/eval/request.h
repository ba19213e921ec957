// From a question's messages to the request body, and from the response body to the answer text.
// Must never send a key that the harness would not send: bodies are equal byte for byte.
// Proved by tests/eval/request_test.cc (body hashes, forms of responses).
#pragma once

#include <optional>
#include <string>

#include "quern/base/json.h"
#include "quern/eval/arguments.h"

namespace quern {

// The body of POST /v1/chat/completions. `generation_kwargs` are the task's, with --gen_kwargs over
// them.
Json make_request(const Json& messages, const Json& generation_kwargs, const ModelArguments& model);

// The answer in a response: content of the first choice; empty optional for `content: null`.
// A response without a readable choice is an empty answer and a warning, as in the harness.
std::optional<std::string> answer_of_response(const Json& response);

// What follows the last `think_end_token` (the whole text when it does not occur), without leading
// white space; the text unchanged when the token is empty.
std::string drop_thinking(std::string text, const std::string& think_end_token);

}  // namespace quern
