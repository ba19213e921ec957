// See grammar_constraint.h.
#include "quern/engine/grammar_constraint.h"

#include <algorithm>

#include "quern/base/error.h"
#include "quern/text/reasoning_parser.h"

namespace quern::engine {

GrammarConstraint::GrammarConstraint(std::shared_ptr<const grammar::TokenGrammar> grammar,
                                     const ReasoningFormat& reasoning, const Tokenizer& tokenizer,
                                     std::span<const TokenId> eos_token_ids, int vocab_size)
    : grammar_(std::move(grammar)),
      matcher_(grammar_),
      tokenizer_(tokenizer),
      eos_token_ids_(eos_token_ids),
      vocab_size_(vocab_size),
      end_marker_(reasoning.end),
      mask_(grammar::mask_words(std::max(vocab_size, grammar_->trie().vocab_size()))) {
  if (reasoning.start.empty() || reasoning.end.empty()) return;
  start_token_ = tokenizer.token_id(reasoning.start);
  end_token_ = tokenizer.token_id(reasoning.end);
  if (reasoning.starts_in_reasoning) {
    phase_ = Phase::kReasoning;
  } else if (!reasoning.is_over && start_token_) {
    phase_ = Phase::kStart;
  }
}

bool GrammarConstraint::is_eos(TokenId token) const {
  return std::ranges::find(eos_token_ids_, token) != eos_token_ids_.end();
}

void GrammarConstraint::allow(TokenId token, bool allowed) {
  if (token < 0 || token >= vocab_size_) return;
  grammar::MaskWord& word = mask_[static_cast<std::size_t>(token) / 32];
  const grammar::MaskWord bit = grammar::MaskWord{1} << (token % 32);
  word = allowed ? word | bit : word & ~bit;
}

std::span<const grammar::MaskWord> GrammarConstraint::mask() {
  only_end_ = false;
  if (phase_ == Phase::kReasoning) {
    mask_reasoning();
  } else {
    mask_answer();
  }
  return mask_;
}

// All but the end of the turn, and but tokens that run on behind the end marker.
void GrammarConstraint::mask_reasoning() {
  std::ranges::fill(mask_, ~grammar::MaskWord{0});
  for (const TokenId token : eos_token_ids_) allow(token, false);
  if (tail_.empty()) return;
  const grammar::TokenTrie& trie = grammar_->trie();
  const int node = trie.find(std::string_view(end_marker_).substr(tail_.size()));
  if (node < 0) return;
  const auto& at = trie.nodes()[static_cast<std::size_t>(node)];
  const auto first =
      static_cast<std::size_t>(trie.nodes()[static_cast<std::size_t>(node) + 1].first_token);
  const auto end =
      static_cast<std::size_t>(trie.nodes()[static_cast<std::size_t>(at.end)].first_token);
  for (std::size_t i = first; i < end; ++i) allow(trie.tokens()[i], false);
}

void GrammarConstraint::mask_answer() {
  const std::size_t words = grammar::mask_words(grammar_->trie().vocab_size());
  std::ranges::fill(mask_, 0);
  bool any = matcher_.fill(std::span(mask_).first(words));
  // Markers are no text of an answer: a reader would take them for reasoning.
  for (const auto& marker : {start_token_, end_token_}) {
    if (marker) allow(*marker, phase_ == Phase::kStart);
  }
  any = std::ranges::any_of(mask_, [](grammar::MaskWord word) { return word != 0; });
  if (matcher_.can_end()) {
    only_end_ = !any;
    for (const TokenId token : eos_token_ids_) allow(token, true);
    any |= !eos_token_ids_.empty();
  }
  if (!any) throw Error("no token of the vocabulary can continue the structured output");
}

void GrammarConstraint::accept(TokenId token) {
  if (phase_ == Phase::kStart) {
    phase_ = token == start_token_ ? Phase::kReasoning : Phase::kAnswer;
    if (token == start_token_ || token == end_token_) return;
  }
  if (phase_ == Phase::kReasoning) {
    tail_ += tokenizer_.token_bytes(token);
    const std::size_t end = tail_.find(end_marker_);
    if (end == std::string::npos) {
      tail_.erase(0, tail_.size() - held_suffix(tail_, end_marker_));
      return;
    }
    const std::string rest = tail_.substr(end + end_marker_.size());
    phase_ = Phase::kAnswer;
    if (!rest.empty() && !matcher_.accept(rest)) {
      throw Error("the text behind the reasoning does not fit the structured output");
    }
    return;
  }
  if (is_eos(token)) {
    ended_ = true;
  } else if (!matcher_.accept(tokenizer_.token_bytes(token))) {
    throw Error("token {} does not fit the structured output", token);
  }
}

}  // namespace quern::engine
