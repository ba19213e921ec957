// Grammars as front ends write them: expressions over bytes, and rules that may call each other.
// Must never know a vocabulary. Compiled by automaton.h.
// Proved by tests/grammar/automaton_test.cc.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/grammar/char_automaton.h"

namespace quern::grammar {

enum class ExprId : int {};
enum class RuleId : int {};

inline constexpr std::int64_t kUnbounded = -1;

// How a character of a string becomes bytes.
enum class Encoding {
  kText,            // UTF-8
  kJson,            // inside a JSON string: ", \ and control characters escaped
  kJsonInsideTags,  // the same, and < escaped, so that no tag can appear
};

struct Expr {
  enum class Kind { kLiteral, kChars, kSequence, kChoice, kRepeat, kRule, kNetwork };
  // A labelled edge of a network; an epsilon has no label.
  struct Edge {
    int from;
    int to;
    ExprId label;
    bool epsilon;
  };

  Kind kind = Kind::kSequence;
  std::string literal{};         // kLiteral
  CharSet chars{};               // kChars
  std::vector<ExprId> parts{};   // kSequence, kChoice; the one part of kRepeat
  std::int64_t min = 0;          // kRepeat
  std::int64_t max = 0;          // kRepeat
  RuleId rule{};                 // kRule
  int num_states = 0;            // kNetwork: 0 is the start
  std::vector<Edge> edges{};     // kNetwork
  std::vector<int> accepting{};  // kNetwork
  int depth = 1;                 // of the expressions in it; a called rule is not in it
};

struct Rule {
  std::string name;
  ExprId body{};
  bool defined = false;
};

// Expressions are shared freely: an ExprId may stand in several places. Not thread-safe.
class GrammarBuilder {
 public:
  GrammarBuilder();

  ExprId empty() const { return empty_; }
  ExprId never() const { return never_; }
  ExprId literal(std::string_view bytes);
  ExprId chars(const CharSet& set);  // one character, in UTF-8
  ExprId sequence(std::vector<ExprId> parts);
  ExprId choice(std::vector<ExprId> parts);
  ExprId repeat(ExprId part, std::int64_t min, std::int64_t max);
  ExprId optional(ExprId part) { return repeat(part, 0, 1); }
  ExprId call(RuleId rule);
  ExprId network(int num_states, std::vector<Expr::Edge> edges, std::vector<int> accepting);
  // The texts of the automaton; with JSON encodings without the quotes around.
  ExprId text(const CharAutomaton& automaton, Encoding encoding);

  RuleId add_rule(std::string name);
  void define(RuleId rule, ExprId body);

  bool is_never(ExprId id) const { return id == never_; }
  const Expr& expr(ExprId id) const { return exprs_[static_cast<std::size_t>(id)]; }
  Expr& expr(ExprId id) { return exprs_[static_cast<std::size_t>(id)]; }
  const Rule& rule(RuleId id) const { return rules_[static_cast<std::size_t>(id)]; }
  std::size_t num_exprs() const { return exprs_.size(); }
  std::size_t num_rules() const { return rules_.size(); }

 private:
  ExprId add(Expr expr);
  int depth_of(ExprId id) const { return expr(id).depth; }

  std::deque<Expr> exprs_;  // ids stay valid, and so do references
  std::deque<Rule> rules_;
  ExprId empty_, never_;
};

}  // namespace quern::grammar
