// Holds one generation to a grammar: which tokens may come next, from the end of its reasoning on.
// Must never let a generation end, or go on, where the grammar does not.
// Proved by tests/engine/grammar_constraint_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/engine/block_pool.h"
#include "quern/engine/request.h"
#include "quern/grammar/token_mask.h"
#include "quern/text/tokenizer.h"

namespace quern::engine {

// Reasoning is free text, but must come to its end. A model that decides for itself whether to
// think may open its reasoning with the first token instead of beginning the answer. Not
// thread-safe.
class GrammarConstraint {
 public:
  GrammarConstraint(std::shared_ptr<const grammar::TokenGrammar> grammar,
                    const ReasoningFormat& reasoning, const Tokenizer& tokenizer,
                    std::span<const TokenId> eos_token_ids, int vocab_size);

  // The tokens that may come next; never none. Throws Error when the grammar is too ambiguous, or
  // needs bytes that no token has. Valid until the next call.
  std::span<const grammar::MaskWord> mask();
  // The last mask() allowed nothing but the end.
  bool only_end() const { return only_end_; }

  // Takes a token that mask() allowed.
  void accept(TokenId token);
  // The answer is complete and was ended.
  bool ended() const { return ended_; }

 private:
  enum class Phase { kStart, kReasoning, kAnswer };

  void mask_reasoning();
  void mask_answer();
  void allow(TokenId token, bool allowed);
  bool is_eos(TokenId token) const;

  std::shared_ptr<const grammar::TokenGrammar> grammar_;
  grammar::TokenMatcher matcher_;
  const Tokenizer& tokenizer_;
  std::span<const TokenId> eos_token_ids_;
  int vocab_size_;
  std::string end_marker_;
  std::optional<TokenId> start_token_, end_token_;
  Phase phase_ = Phase::kAnswer;
  std::string tail_;  // of the reasoning: what could be the beginning of the end marker
  std::vector<grammar::MaskWord> mask_;
  bool only_end_ = false;
  bool ended_ = false;
};

}  // namespace quern::engine
