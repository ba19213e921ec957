// From a question's messages to the request body, and from the response body to the answer text.
// Must never send a key that the harness would not send: bodies are equal byte for byte.
// Proved by tests/eval/request_test.cc (body hashes, forms of responses).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/arguments.h"
#include "quern/eval/sample.h"

namespace quern {

// The body of POST /v1/chat/completions, or of /v1/completions when the prompt is text or a list of
// one list of tokens. `generation_kwargs` are the task's, with --gen_kwargs over them.
Json make_request(const Json& prompt, const Json& generation_kwargs, const ModelArguments& model);

// The tokens that a request may ask for: max_gen_toks of the generation arguments, else the
// model's.
std::int64_t max_generated_tokens(const Json& generation_kwargs, const ModelArguments& model);

// The body that asks /v1/completions for the likelihood of `tokens`.
Json make_likelihood_request(const LikelihoodTokens& tokens, const ModelArguments& model);

// The likelihood of the tokens behind the prompt's in the response to that; the last one of the
// response was generated and does not count. Throws Error when the response does not hold it.
Loglikelihood likelihood_of_response(const Json& response, const LikelihoodTokens& tokens);

// The answer in a response: content of the first choice; empty optional for `content: null`.
// `choices[].text` of /v1/completions counts as content. A response without a readable choice is an
// empty answer and a warning, as in the harness.
std::optional<std::string> answer_of_response(const Json& response);

// What follows the last `think_end_token` (the whole text when it does not occur), without leading
// white space; the text unchanged when the token is empty.
std::string drop_thinking(std::string text, const std::string& think_end_token);

}  // namespace quern
