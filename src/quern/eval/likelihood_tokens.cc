// See likelihood_tokens.h. Source: lm-evaluation-harness lm_eval/api/model.py (loglikelihood,
// _encode_pair), lm_eval/models/api_models.py (batch_loglikelihood_requests).
#include "quern/eval/likelihood_tokens.h"

#include <algorithm>

#include "quern/base/error.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

std::size_t spaces_at_end(const std::string& text) {
  // str.rstrip: what is left when the front is protected.
  const std::string guarded = "." + text;
  return guarded.size() - python_strip(guarded).size();
}

}  // namespace

LikelihoodTokens likelihood_tokens(const Tokenizer& tokenizer, std::string prompt,
                                   std::string continuation, std::size_t max_tokens,
                                   std::int32_t prefix_token) {
  LikelihoodTokens out;
  if (prompt.empty()) {
    out.tokens = tokenizer.encode(continuation);
    if (out.tokens.empty() || out.tokens.front() != prefix_token)
      out.tokens.insert(out.tokens.begin(), prefix_token);
    out.context = 1;
  } else {
    const std::size_t spaces = spaces_at_end(prompt);
    continuation.insert(0, prompt.substr(prompt.size() - spaces));
    prompt.resize(prompt.size() - spaces);
    out.tokens = tokenizer.encode(prompt + continuation);
    out.context = tokenizer.encode(prompt).size();
  }
  if (out.tokens.size() > max_tokens) {
    const std::size_t cut = out.tokens.size() - max_tokens;
    out.tokens.erase(out.tokens.begin(), out.tokens.begin() + static_cast<std::ptrdiff_t>(cut));
    out.context -= std::min(out.context, cut);
  }
  if (out.context == 0 || out.context > out.tokens.size()) {
    throw Error("a text of {} tokens leaves no prompt within max_length", out.tokens.size());
  }
  return out;
}

}  // namespace quern
