// The tokens of a prompt and the text that is scored behind it, cut as lm-evaluation-harness does.
// Must never tokenize the two apart: the border is where the prompt's own tokens end.
// Used by the likelihood tasks, which no test covers yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "quern/text/tokenizer.h"

namespace quern {

struct LikelihoodTokens {
  std::vector<std::int32_t> tokens;  // not empty
  std::size_t context = 0;           // how many of them are the prompt's; the rest are scored
};

// White space at the prompt's end is counted to the continuation. At most `max_tokens` are kept,
// from the right. An empty prompt stands for `prefix_token`. Throws Error when nothing is left to
// score behind at least one token.
LikelihoodTokens likelihood_tokens(const Tokenizer& tokenizer, std::string prompt,
                                   std::string continuation, std::size_t max_tokens,
                                   std::int32_t prefix_token);

}  // namespace quern
