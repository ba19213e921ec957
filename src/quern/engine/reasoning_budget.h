// Ends reasoning that has used up its tokens: says which token has to come next.
// Must never touch the answer, nor force anything while there is budget left.
// Proved by tests/engine/reasoning_budget_test.cc.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quern/engine/block_pool.h"
#include "quern/engine/request.h"
#include "quern/text/tokenizer.h"

namespace quern::engine {

// Reasoning begins as in StopText: opened by the prompt, or by the first start marker in the text.
// Not thread-safe.
class ReasoningBudget {
 public:
  // Without markers there is nothing to end.
  ReasoningBudget(int budget, const ReasoningFormat& reasoning, const Tokenizer& tokenizer);

  // A token of the end marker, when the budget is used up.
  std::optional<TokenId> forced() const;
  void accept(TokenId token);

 private:
  enum class Phase { kBefore, kReasoning, kOver };

  void find(const std::string& marker, Phase next);

  const Tokenizer& tokenizer_;
  const std::string start_marker_, end_marker_;
  std::vector<TokenId> end_tokens_;
  int left_;                    // tokens of reasoning
  std::size_t num_forced_ = 0;  // of end_tokens_
  Phase phase_ = Phase::kBefore;
  std::string tail_;  // of the text: what could become the marker that is looked for
};

}  // namespace quern::engine
