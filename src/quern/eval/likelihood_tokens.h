// The tokens of a prompt and the text that is scored behind it, cut as lm-evaluation-harness does.
// Must never differ from the harness by a token: a likelihood is that of these tokens only.
// Proved by tests/apps/harness_runs_test.cc (its requests).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "quern/eval/prompt_tokenizer.h"
#include "quern/eval/sample.h"

namespace quern {

// White space at the prompt's end is counted to the text. The prompt is tokenized alone, the text
// is what the tokens of both have beyond as many: where a token reaches over the border, it stands
// in neither. At most `max_tokens` are kept, from the right. An empty prompt stands for the
// tokenizer's prefix token. Throws Error when no token of the prompt is left.
LikelihoodTokens likelihood_tokens(const PromptTokenizer& tokenizer, Continuation continuation,
                                   std::size_t max_tokens);

// A whole text, cut so that each token is scored once: the first piece behind the prefix token,
// each further one behind the last token before it (and more of them in the last piece, as many as
// `max_tokens` leaves room for). Empty for an empty text.
std::vector<LikelihoodTokens> rolling_tokens(const PromptTokenizer& tokenizer,
                                             const std::string& text, std::size_t max_tokens);

// The last `max_tokens` tokens of a prompt.
std::vector<std::int32_t> prompt_tokens(const PromptTokenizer& tokenizer, const std::string& prompt,
                                        std::size_t max_tokens);

}  // namespace quern
