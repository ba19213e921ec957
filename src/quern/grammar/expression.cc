// See expression.h.
#include "quern/grammar/expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "quern/base/error.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxExprs = 2'000'000;
constexpr int kMaxDepth = 1000;  // compilation recurses over expressions

// The escape that JSON writers use, where there is a short one.
std::string json_escape(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\u{:04x}", static_cast<unsigned>(c));
  }
}

CharSet escaped_chars(Encoding encoding) {
  CharSet set;
  if (encoding == Encoding::kText) return set;
  set = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  if (encoding == Encoding::kJsonInsideTags) set.add('<', '<');
  return set;
}

}  // namespace

GrammarBuilder::GrammarBuilder() {
  empty_ = add({.kind = Expr::Kind::kSequence});
  never_ = add({.kind = Expr::Kind::kChoice});
}

ExprId GrammarBuilder::add(Expr expr) {
  if (exprs_.size() >= kMaxExprs) throw Error("the grammar is too large");
  const auto below = [&](ExprId part) { expr.depth = std::max(expr.depth, depth_of(part) + 1); };
  for (const ExprId part : expr.parts) below(part);
  for (const Expr::Edge& edge : expr.edges) {
    if (!edge.epsilon) below(edge.label);
  }
  if (expr.depth > kMaxDepth) throw Error("the grammar is nested deeper than {} levels", kMaxDepth);
  exprs_.push_back(std::move(expr));
  return static_cast<ExprId>(exprs_.size() - 1);
}

ExprId GrammarBuilder::literal(std::string_view bytes) {
  if (bytes.empty()) return empty_;
  Expr expr{.kind = Expr::Kind::kLiteral};
  expr.literal = bytes;
  return add(std::move(expr));
}

ExprId GrammarBuilder::chars(const CharSet& set) {
  if (set.empty()) return never_;
  Expr expr{.kind = Expr::Kind::kChars};
  expr.chars = set;
  return add(std::move(expr));
}

ExprId GrammarBuilder::sequence(std::vector<ExprId> parts) {
  if (std::ranges::find(parts, never_) != parts.end()) return never_;
  std::erase(parts, empty_);
  if (parts.empty()) return empty_;
  if (parts.size() == 1) return parts.front();
  Expr expr{.kind = Expr::Kind::kSequence};
  expr.parts = std::move(parts);
  return add(std::move(expr));
}

ExprId GrammarBuilder::choice(std::vector<ExprId> parts) {
  std::erase(parts, never_);
  if (parts.empty()) return never_;
  if (parts.size() == 1) return parts.front();
  Expr expr{.kind = Expr::Kind::kChoice};
  expr.parts = std::move(parts);
  return add(std::move(expr));
}

ExprId GrammarBuilder::repeat(ExprId part, std::int64_t min, std::int64_t max) {
  if (max == 0 || part == empty_) return empty_;
  if (part == never_) return min == 0 ? empty_ : never_;
  if (max != kUnbounded && max < min) return never_;
  if (min == 1 && max == 1) return part;
  Expr expr{.kind = Expr::Kind::kRepeat};
  expr.parts = {part};
  expr.min = min;
  expr.max = max;
  return add(std::move(expr));
}

ExprId GrammarBuilder::call(RuleId rule) {
  Expr expr{.kind = Expr::Kind::kRule};
  expr.rule = rule;
  return add(std::move(expr));
}

ExprId GrammarBuilder::network(int num_states, std::vector<Expr::Edge> edges,
                               std::vector<int> accepting) {
  std::erase_if(edges,
                [&](const Expr::Edge& edge) { return !edge.epsilon && is_never(edge.label); });
  if (accepting.empty()) return never_;
  Expr expr{.kind = Expr::Kind::kNetwork};
  expr.num_states = num_states;
  expr.edges = std::move(edges);
  expr.accepting = std::move(accepting);
  return add(std::move(expr));
}

ExprId GrammarBuilder::text(const CharAutomaton& automaton, Encoding encoding) {
  if (automaton.empty()) return never_;
  const CharSet escaped = escaped_chars(encoding);
  std::vector<Expr::Edge> edges;
  std::vector<int> accepting;
  std::vector<std::pair<int, std::vector<CharRange>>> by_target;
  std::unordered_map<int, std::size_t> places;  // of targets
  for (std::size_t state = 0; state < automaton.states.size(); ++state) {
    const int from = static_cast<int>(state);
    if (automaton.states[state].accepting) accepting.push_back(from);
    by_target.clear();
    places.clear();
    for (const CharAutomaton::Edge& edge : automaton.states[state].edges) {
      const auto [place, added] = places.try_emplace(edge.target, by_target.size());
      if (added) by_target.emplace_back(edge.target, std::vector<CharRange>());
      by_target[place->second].second.push_back({edge.first, edge.last});
    }
    for (auto& [to, ranges] : by_target) {
      const CharSet set(std::move(ranges));
      const CharSet plain = set.minus(escaped);
      if (!plain.empty()) edges.push_back({from, to, chars(plain), false});
      const CharSet special = set.intersect(escaped);
      for (const CharRange& range : special.ranges()) {
        for (char32_t c = range.first; c <= range.last; ++c) {
          edges.push_back({from, to, literal(json_escape(c)), false});
        }
      }
    }
  }
  return network(static_cast<int>(automaton.states.size()), std::move(edges), std::move(accepting));
}

RuleId GrammarBuilder::add_rule(std::string name) {
  rules_.push_back({std::move(name), never_, false});
  return static_cast<RuleId>(rules_.size() - 1);
}

void GrammarBuilder::define(RuleId rule, ExprId body) {
  Rule& target = rules_[static_cast<std::size_t>(rule)];
  target.body = body;
  target.defined = true;
}

}  // namespace quern::grammar
