// See rule_analysis.h.
#include "quern/grammar/rule_analysis.h"

#include <algorithm>
#include <utility>

#include "quern/grammar/index.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kInlineStates = 400;  // larger rules that are used twice are called
constexpr int kInlineDepth = 200;           // deeper rules are called: add() recurses over them
constexpr std::size_t kHuge = std::size_t{1} << 40;

std::size_t index(ExprId id) { return static_cast<std::size_t>(id); }
std::size_t index(RuleId id) { return static_cast<std::size_t>(id); }

}  // namespace

RuleAnalysis::RuleAnalysis(const GrammarBuilder& builder, CompileClock& clock)
    : builder_(builder), clock_(clock) {
  const std::size_t n = builder_.num_rules();
  uses_.assign(n, 0);
  callees_.resize(n);
  std::vector<std::size_t> seen(builder_.num_exprs(), n);
  for (std::size_t rule = 0; rule < n; ++rule) {
    const Rule& definition = builder_.rule(static_cast<RuleId>(rule));
    if (!definition.defined) throw Error("rule '{}' is not defined", definition.name);
    std::vector<ExprId> work = {definition.body};
    while (!work.empty()) {
      const ExprId id = work.back();
      work.pop_back();
      if (std::exchange(seen[index(id)], rule) == rule) continue;
      clock_.tick();
      const Expr& expr = builder_.expr(id);
      if (expr.kind == Expr::Kind::kRule) {
        callees_[rule].push_back(static_cast<int>(expr.rule));
        ++uses_[index(expr.rule)];
      }
      for (const ExprId part : expr.parts) work.push_back(part);
      for (const Expr::Edge& edge : expr.edges) {
        if (!edge.epsilon) work.push_back(edge.label);
      }
    }
  }
  find_recursion();
  find_nullable();
  find_sizes();
}

// Tarjan's components, iterative: a rule is recursive when it can reach itself. A component is
// complete after those that it calls.
void RuleAnalysis::find_recursion() {
  const std::size_t n = callees_.size();
  recursive_.assign(n, false);
  std::vector<int> number(n, -1), low(n, 0), stack;
  std::vector<bool> on_stack(n, false);
  std::vector<std::pair<int, std::size_t>> work;
  int count = 0;
  const auto enter = [&](int rule) {
    number[index(rule)] = low[index(rule)] = count++;
    stack.push_back(rule);
    on_stack[index(rule)] = true;
    work.emplace_back(rule, 0);
  };
  for (std::size_t first = 0; first < n; ++first) {
    if (number[first] >= 0) continue;
    enter(static_cast<int>(first));
    while (!work.empty()) {
      const int rule = work.back().first;
      if (work.back().second < callees_[index(rule)].size()) {
        const int callee = callees_[index(rule)][work.back().second++];
        if (callee == rule) recursive_[index(rule)] = true;
        if (number[index(callee)] < 0) {
          enter(callee);
        } else if (on_stack[index(callee)]) {
          low[index(rule)] = std::min(low[index(rule)], number[index(callee)]);
        }
        continue;
      }
      work.pop_back();
      if (!work.empty()) {
        int& parent = low[index(work.back().first)];
        parent = std::min(parent, low[index(rule)]);
      }
      if (low[index(rule)] != number[index(rule)]) continue;
      const bool alone = stack.back() == rule;
      for (int member = -1; member != rule;) {
        member = stack.back();
        stack.pop_back();
        on_stack[index(member)] = false;
        callees_first_.push_back(member);
        if (!alone) recursive_[index(member)] = true;
      }
    }
  }
}

void RuleAnalysis::find_nullable() {
  nullable_.assign(callees_.size(), false);
  for (bool changed = true; changed;) {
    changed = false;
    std::vector<signed char> memo(builder_.num_exprs(), -1);
    for (const int rule : callees_first_) {
      if (nullable_[index(rule)]) continue;
      if (is_nullable(builder_.rule(static_cast<RuleId>(rule)).body, memo)) {
        nullable_[index(rule)] = changed = true;
      }
    }
  }
}

bool RuleAnalysis::is_nullable(ExprId id) {
  std::vector<signed char> memo(builder_.num_exprs(), -1);
  return is_nullable(id, memo);
}

bool RuleAnalysis::is_nullable(ExprId id, std::vector<signed char>& memo) {
  signed char& known = memo[index(id)];
  if (known >= 0) return known != 0;
  clock_.tick();
  const Expr& expr = builder_.expr(id);
  bool result = false;
  const auto part = [&](ExprId p) { return is_nullable(p, memo); };
  switch (expr.kind) {
    case Expr::Kind::kLiteral:
    case Expr::Kind::kChars:
      break;
    case Expr::Kind::kSequence:
      result = std::ranges::all_of(expr.parts, part);
      break;
    case Expr::Kind::kChoice:
      result = std::ranges::any_of(expr.parts, part);
      break;
    case Expr::Kind::kRepeat:
      result = expr.min == 0 || part(expr.parts.front());
      break;
    case Expr::Kind::kRule:
      result = nullable_[index(expr.rule)];
      break;
    case Expr::Kind::kNetwork:
      result = network_nullable(expr, memo);
      break;
  }
  memo[index(id)] = result ? 1 : 0;
  return result;
}

bool RuleAnalysis::network_nullable(const Expr& expr, std::vector<signed char>& memo) {
  std::vector<bool> reached(index(expr.num_states), false);
  reached[0] = true;
  for (bool changed = true; changed;) {
    changed = false;
    for (const Expr::Edge& edge : expr.edges) {
      if (!reached[index(edge.from)] || reached[index(edge.to)]) continue;
      if (!edge.epsilon && !is_nullable(edge.label, memo)) continue;
      reached[index(edge.to)] = changed = true;
    }
  }
  return std::ranges::any_of(expr.accepting, [&](int state) { return reached[index(state)]; });
}

// Rules that a rule calls come first, so that size_of() meets only known ones.
void RuleAnalysis::find_sizes() {
  sizes_.assign(callees_.size(), 0);
  depths_.assign(callees_.size(), 0);
  for (const int rule : callees_first_) {
    if (recursive_[index(rule)]) continue;
    const ExprId body = builder_.rule(static_cast<RuleId>(rule)).body;
    sizes_[index(rule)] = size_of(body);
    depths_[index(rule)] = expr_sizes_[index(body)].depth;
  }
}

std::size_t RuleAnalysis::size_of(ExprId id) {
  if (expr_sizes_.size() < builder_.num_exprs()) expr_sizes_.resize(builder_.num_exprs());
  if (expr_sizes_[index(id)].states > 0) return expr_sizes_[index(id)].states;
  clock_.tick();
  const Expr& expr = builder_.expr(id);
  std::size_t size = 1;
  int depth = 0;
  const auto part_size = [&](ExprId part) {
    const std::size_t states = size_of(part);
    depth = std::max(depth, expr_sizes_[index(part)].depth);
    return states;
  };
  switch (expr.kind) {
    case Expr::Kind::kLiteral:
      size = expr.literal.size();
      break;
    case Expr::Kind::kChars:
      size = expr.chars.ranges().back().last < 0x80 ? 1 : 8;
      break;
    case Expr::Kind::kRepeat: {
      const std::size_t part = part_size(expr.parts.front());
      const auto times = static_cast<std::size_t>(std::max({expr.min, expr.max, std::int64_t{1}}));
      size = part * times > kUnrolledStates ? times : part * times;
      break;
    }
    case Expr::Kind::kRule:
      if (!is_inlined(static_cast<int>(expr.rule))) break;
      size = sizes_[index(expr.rule)];
      depth = depths_[index(expr.rule)];
      break;
    default:
      size += index(expr.num_states);
      for (const ExprId part : expr.parts) size += part_size(part);
      for (const Expr::Edge& edge : expr.edges) size += edge.epsilon ? 0 : part_size(edge.label);
      break;
  }
  expr_sizes_[index(id)] = {std::min(size, kHuge), depth + 1};
  return expr_sizes_[index(id)].states;
}

bool RuleAnalysis::is_inlined(int rule) const {
  if (recursive_[index(rule)] || depths_[index(rule)] > kInlineDepth) return false;
  const std::size_t size = sizes_[index(rule)];
  return size <= kInlineStates || (uses_[index(rule)] == 1 && size <= kUnrolledStates);
}

}  // namespace quern::grammar
