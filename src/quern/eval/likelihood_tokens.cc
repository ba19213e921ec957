// See likelihood_tokens.h. Source: lm-evaluation-harness lm_eval/api/model.py (loglikelihood,
// _encode_pair), lm_eval/models/api_models.py (batch_loglikelihood_requests,
// loglikelihood_rolling, generate_until), lm_eval/utils.py (get_rolling_token_windows).
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

void keep_last(std::vector<std::int32_t>& tokens, std::size_t count) {
  if (tokens.size() > count)
    tokens.erase(tokens.begin(), tokens.end() - static_cast<std::ptrdiff_t>(count));
}

}  // namespace

LikelihoodTokens likelihood_tokens(const PromptTokenizer& prompt_tokenizer,
                                   Continuation continuation, std::size_t max_tokens) {
  auto& [prompt, text] = continuation;
  const Tokenizer& tokenizer = prompt_tokenizer.tokenizer();
  LikelihoodTokens out;
  if (prompt.empty()) {
    const std::int32_t prefix = prompt_tokenizer.prefix_token();
    out.tokens = tokenizer.encode(text);
    if (out.tokens.empty() || out.tokens.front() != prefix)
      out.tokens.insert(out.tokens.begin(), prefix);
    out.context = 1;
  } else {
    const std::size_t spaces = spaces_at_end(prompt);
    text.insert(0, prompt.substr(prompt.size() - spaces));
    prompt.resize(prompt.size() - spaces);
    const std::vector<std::int32_t> whole = tokenizer.encode(prompt + text);
    out.tokens = tokenizer.encode(prompt);
    out.context = out.tokens.size();
    if (whole.size() > out.context)
      out.tokens.insert(out.tokens.end(), whole.begin() + static_cast<std::ptrdiff_t>(out.context),
                        whole.end());
  }
  const std::size_t size = out.tokens.size();
  keep_last(out.tokens, max_tokens);
  out.context -= std::min(out.context, size - out.tokens.size());
  if (out.context == 0) {
    throw Error("a text of {} tokens leaves no prompt within max_length (at most {} are sent)",
                size, max_tokens);
  }
  return out;
}

std::vector<LikelihoodTokens> rolling_tokens(const PromptTokenizer& tokenizer,
                                             const std::string& text, std::size_t max_tokens) {
  std::vector<std::int32_t> tokens = tokenizer.tokenizer().encode(text);
  std::vector<LikelihoodTokens> pieces;
  if (tokens.empty()) return pieces;
  if (max_tokens < 2) throw Error("max_length leaves no room for a text");
  tokens.insert(tokens.begin(), tokenizer.prefix_token());
  const std::size_t scored = max_tokens - 1;  // of one piece
  for (std::size_t done = 1; done < tokens.size();) {
    const std::size_t end = std::min(done + scored, tokens.size());
    const std::size_t begin = end > max_tokens && done > 1 ? end - max_tokens : done - 1;
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    pieces.push_back({{first, tokens.begin() + static_cast<std::ptrdiff_t>(end)}, done - begin});
    done = end;
  }
  return pieces;
}

std::vector<std::int32_t> prompt_tokens(const PromptTokenizer& tokenizer, const std::string& prompt,
                                        std::size_t max_tokens) {
  std::vector<std::int32_t> tokens = tokenizer.tokenizer().encode(prompt);
  keep_last(tokens, max_tokens);
  return tokens;
}

}  // namespace quern
