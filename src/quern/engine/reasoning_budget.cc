// See reasoning_budget.h.
#include "quern/engine/reasoning_budget.h"

#include "quern/text/reasoning_parser.h"

namespace quern::engine {

ReasoningBudget::ReasoningBudget(int budget, const ReasoningFormat& reasoning,
                                 const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      start_marker_(reasoning.start),
      end_marker_(reasoning.end),
      left_(budget) {
  const bool marked = !reasoning.start.empty() && !reasoning.end.empty();
  if (!marked || reasoning.is_over) {
    phase_ = Phase::kOver;
    return;
  }
  end_tokens_ = tokenizer.encode(end_marker_);
  if (reasoning.starts_in_reasoning) phase_ = Phase::kReasoning;
}

std::optional<TokenId> ReasoningBudget::forced() const {
  if (phase_ != Phase::kReasoning || left_ > 0 || num_forced_ == end_tokens_.size()) return {};
  return end_tokens_[num_forced_];
}

void ReasoningBudget::accept(TokenId token) {
  if (phase_ == Phase::kOver) return;
  if (phase_ == Phase::kReasoning) {
    if (left_ > 0) {
      --left_;
    } else {
      ++num_forced_;
    }
  }
  tail_ += tokenizer_.token_bytes(token);
  if (phase_ == Phase::kBefore) {
    find(start_marker_, Phase::kReasoning);
    if (phase_ == Phase::kBefore) return;
  }
  find(end_marker_, Phase::kOver);
}

// Cuts the tail behind the marker and goes on, or to what could still become it.
void ReasoningBudget::find(const std::string& marker, Phase next) {
  const std::size_t at = tail_.find(marker);
  if (at == std::string::npos) {
    tail_.erase(0, tail_.size() - held_suffix(tail_, marker));
    return;
  }
  tail_.erase(0, at + marker.size());
  phase_ = next;
}

}  // namespace quern::engine
