// What a compilation has to know of the rules of a grammar before it builds automata: which
// recurse, which may be empty, how large they become, and which of them become part of their
// callers. Must never recurse deeper than a grammar's own expressions, nor past its time. Proved by
// tests/grammar/automaton_test.cc.
#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

#include "quern/base/error.h"
#include "quern/grammar/expression.h"

namespace quern::grammar {

inline constexpr std::size_t kUnrolledStates = 20000;  // larger repeats call their part

// The time that a compilation may take.
struct CompileClock {
  std::chrono::steady_clock::time_point deadline;
  unsigned ticks = 0;

  void tick() {
    if (++ticks % 256 == 0 && std::chrono::steady_clock::now() > deadline) {
      throw Error("the grammar takes too long to compile; simplify it");
    }
  }
};

class RuleAnalysis {
 public:
  // Both outlive it. Throws Error for a rule that is not defined.
  RuleAnalysis(const GrammarBuilder& builder, CompileClock& clock);

  bool nullable(RuleId rule) const { return nullable_[static_cast<std::size_t>(rule)]; }
  bool is_nullable(ExprId id);
  // States of the expression with all inlined rules, saturating.
  std::size_t size_of(ExprId id);
  // Whether calls of the rule become its body.
  bool is_inlined(int rule) const;

 private:
  void find_recursion();
  void find_nullable();
  void find_sizes();
  bool is_nullable(ExprId id, std::vector<signed char>& memo);
  bool network_nullable(const Expr& expr, std::vector<signed char>& memo);

  const GrammarBuilder& builder_;
  CompileClock& clock_;
  // By rule.
  std::vector<int> uses_;
  std::vector<std::vector<int>> callees_;
  std::vector<bool> recursive_, nullable_;
  std::vector<std::size_t> sizes_;  // of rules that do not recurse
  std::vector<int> depths_;         // the same: levels of expressions with all inlined rules
  std::vector<int> callees_first_;  // all rules
  // By expression.
  struct Size {
    std::size_t states = 0;  // 0: not known yet
    int depth = 0;
  };
  std::vector<Size> expr_sizes_;
};

}  // namespace quern::grammar
