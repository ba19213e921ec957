// Random grammars, and the plain way to match them.
// Must never use what it is the oracle of: only the expressions.
// Proved by use.
#pragma once

#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "quern/grammar/expression.h"
#include "quern/text/utf8.h"

namespace quern::grammar::test {

// Which positions a match of an expression that begins at a position can end at. Left recursion
// ends because a question that is being asked has no new answers (iterated until nothing changes).
class NaiveMatcher {
 public:
  NaiveMatcher(const GrammarBuilder& builder, std::string_view text)
      : builder_(builder), text_(text) {}

  bool matches(RuleId rule) {
    do {
      changed_ = false;
      asked_.clear();
      ends_of_rule(rule, 0);
    } while (changed_);
    return known_[{static_cast<int>(rule), 0}].contains(text_.size());
  }

 private:
  using Ends = std::set<std::size_t>;

  Ends ends_of_rule(RuleId rule, std::size_t begin) {
    const std::pair<int, std::size_t> key{static_cast<int>(rule), begin};
    if (!asked_.insert(key).second) return known_[key];
    const Ends ends = ends_of(builder_.rule(rule).body, begin);
    Ends& known = known_[key];
    for (const std::size_t end : ends) changed_ |= known.insert(end).second;
    return known;
  }

  Ends ends_of(ExprId id, std::size_t begin) {
    const Expr& expr = builder_.expr(id);
    Ends ends;
    switch (expr.kind) {
      case Expr::Kind::kLiteral:
        if (text_.substr(begin).starts_with(expr.literal)) ends.insert(begin + expr.literal.size());
        break;
      case Expr::Kind::kChars:
        if (begin < text_.size()) {
          const Utf8Scan scan = scan_utf8(text_.substr(begin));
          if (scan.kind == Utf8Scan::Kind::kValid && expr.chars.contains(scan.code_point)) {
            ends.insert(begin + scan.length);
          }
        }
        break;
      case Expr::Kind::kSequence:
        ends = {begin};
        for (const ExprId part : expr.parts) ends = after(part, ends);
        break;
      case Expr::Kind::kChoice:
        for (const ExprId part : expr.parts) ends.merge(ends_of(part, begin));
        break;
      case Expr::Kind::kRepeat:
        ends = repeat(expr, begin);
        break;
      case Expr::Kind::kRule:
        ends = ends_of_rule(expr.rule, begin);
        break;
      case Expr::Kind::kNetwork:
        ends = network(expr, begin);
        break;
    }
    return ends;
  }

  Ends after(ExprId part, const Ends& begins) {
    Ends ends;
    for (const std::size_t begin : begins) ends.merge(ends_of(part, begin));
    return ends;
  }

  Ends repeat(const Expr& expr, std::size_t begin) {
    Ends now = {begin};
    for (std::int64_t i = 0; i < expr.min; ++i) now = after(expr.parts.front(), now);
    Ends all = now;
    for (std::int64_t i = expr.min; expr.max == kUnbounded || i < expr.max; ++i) {
      now = after(expr.parts.front(), now);
      const std::size_t before = all.size();
      all.insert(now.begin(), now.end());
      if (all.size() == before) break;
    }
    return all;
  }

  Ends network(const Expr& expr, std::size_t begin) {
    std::set<std::pair<int, std::size_t>> reached = {{0, begin}};
    std::vector<std::pair<int, std::size_t>> work = {{0, begin}};
    while (!work.empty()) {
      const auto [state, at] = work.back();
      work.pop_back();
      for (const Expr::Edge& edge : expr.edges) {
        if (edge.from != state) continue;
        for (const std::size_t end : edge.epsilon ? Ends{at} : ends_of(edge.label, at)) {
          if (reached.insert({edge.to, end}).second) work.emplace_back(edge.to, end);
        }
      }
    }
    Ends ends;
    for (const int state : expr.accepting) {
      for (const auto& [at_state, end] : reached) {
        if (at_state == state) ends.insert(end);
      }
    }
    return ends;
  }

  const GrammarBuilder& builder_;
  std::string_view text_;
  std::map<std::pair<int, std::size_t>, Ends> known_;
  std::set<std::pair<int, std::size_t>> asked_;
  bool changed_ = false;
};

// Rules over a, b, c and a character of two bytes. May be left recursive or match nothing.
inline RuleId make_random_grammar(GrammarBuilder& builder, std::mt19937& random) {
  const auto pick = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::size_t num_rules = 1 + pick(4);
  std::vector<RuleId> rules;
  for (std::size_t i = 0; i < num_rules; ++i)
    rules.push_back(builder.add_rule("r" + std::to_string(i)));
  const auto make = [&](const auto& self, int depth) -> ExprId {
    switch (depth == 0 ? pick(5) : pick(12)) {
      case 0:
        return builder.literal("a");
      case 1:
        return builder.literal("bc");
      case 2:
        return builder.chars({{'a', 'b'}, {0xE9, 0xE9}});
      case 3:
        return builder.literal("c");
      case 4:
        return pick(3) == 0 ? builder.empty() : builder.literal("b");
      case 5:
      case 6: {
        const ExprId first = self(self, depth - 1);
        return builder.sequence({first, self(self, depth - 1)});
      }
      case 7: {
        const ExprId first = self(self, depth - 1);
        return builder.choice({first, self(self, depth - 1)});
      }
      case 8:
        return builder.repeat(self(self, depth - 1), static_cast<std::int64_t>(pick(2)),
                              pick(2) == 0 ? kUnbounded : 2);
      case 9:
      case 10:
        return builder.call(rules[pick(rules.size())]);
      default: {
        std::vector<Expr::Edge> edges;
        for (int i = 0; i < 4; ++i) {
          const bool epsilon = pick(4) == 0;
          edges.push_back({static_cast<int>(pick(3)), static_cast<int>(pick(3)),
                           epsilon ? builder.empty() : self(self, depth - 1), epsilon});
        }
        return builder.network(3, edges, {static_cast<int>(pick(3))});
      }
    }
  };
  for (const RuleId rule : rules) builder.define(rule, make(make, 3));
  return rules.front();
}

}  // namespace quern::grammar::test
