// A compiled grammar: one deterministic byte automaton for each rule, with edges that call rules.
// Must never hold a state from which the rule cannot end: every accepted prefix can be completed.
// Proved by tests/grammar/automaton_test.cc (against a naive matcher).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quern/grammar/compile_time.h"
#include "quern/grammar/expression.h"

namespace quern::grammar {

// Bounds of a compilation; what goes beyond is an Error.
struct CompileLimits {
  std::size_t max_states = 200'000;
  std::size_t max_table_bytes = std::size_t{48} << 20;
  std::chrono::milliseconds time = kCompileTime;
};

// Immutable after compilation.
class Automaton {
 public:
  static constexpr int kDead = -1;

  struct Call {
    int rule;
    int return_state;
  };
  struct RuleInfo {
    std::string name;
    int start = kDead;
    int rank = 0;  // callers at the left edge have smaller ranks
  };

  // The state after `byte`, or kDead.
  int next(int state, std::uint8_t byte) const {
    return table_[static_cast<std::size_t>(state) * num_classes_ + classes_[byte]];
  }
  // The states after each class of bytes.
  std::span<const int> row(int state) const {
    return std::span(table_).subspan(static_cast<std::size_t>(state) * num_classes_, num_classes_);
  }
  bool accepting(int state) const { return accepting_[static_cast<std::size_t>(state)] != 0; }
  // Nothing follows: the rule has ended.
  bool final_only(int state) const { return final_only_[static_cast<std::size_t>(state)] != 0; }
  std::span<const Call> calls(int state) const {
    const auto s = static_cast<std::size_t>(state);
    return std::span(calls_).subspan(call_begin_[s], call_begin_[s + 1] - call_begin_[s]);
  }
  const RuleInfo& rule(int rule) const { return rules_[static_cast<std::size_t>(rule)]; }
  int start() const { return rules_.front().start; }  // of the root rule
  int num_states() const { return static_cast<int>(accepting_.size()); }
  int num_rules() const { return static_cast<int>(rules_.size()); }
  std::size_t bytes() const;

 private:
  friend class AutomatonCompiler;

  std::array<std::uint8_t, 256> classes_{};
  std::size_t num_classes_ = 1;
  std::vector<int> table_;  // [states, classes]
  std::vector<std::uint8_t> accepting_, final_only_;
  std::vector<Call> calls_;
  std::vector<std::size_t> call_begin_;
  std::vector<RuleInfo> rules_;  // the root first
};

// Throws Error when a limit is passed, a rule calls itself before it consumed anything, or no text
// matches. Rules that do not recurse become part of their callers where that stays small.
Automaton compile(GrammarBuilder& builder, RuleId root, const CompileLimits& limits = {});

}  // namespace quern::grammar
