// See automaton.h. Steps: sizes and recursion of rules (rule_analysis.h); for each rule that is
// called a nondeterministic automaton (Thompson's construction) and from it a deterministic one
// (subsets); removal of states that cannot end; ranks of rules; the table.
#include "quern/grammar/automaton.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include "quern/base/error.h"
#include "quern/grammar/index.h"
#include "quern/grammar/rule_analysis.h"

namespace quern::grammar {
namespace {

struct ByteEdge {
  std::uint8_t first;
  std::uint8_t last;
  int target;
};

struct CallEdge {
  int rule;
  int target;
};

struct NfaState {
  std::vector<ByteEdge> bytes;
  std::vector<CallEdge> calls;
  std::vector<int> jumps;
};

}  // namespace

class AutomatonCompiler {
 public:
  AutomatonCompiler(GrammarBuilder& builder, const CompileLimits& limits)
      : builder_(builder),
        limits_(limits),
        clock_{std::chrono::steady_clock::now() + limits.time},
        rules_(builder, clock_) {}

  Automaton compile(RuleId root) {
    rule_of(root);
    for (std::size_t rule = 0; rule < bodies_.size(); ++rule) build_rule(static_cast<int>(rule));
    prune();
    rank();
    return finish();
  }

 private:
  struct State {
    std::vector<ByteEdge> bytes;
    std::vector<CallEdge> calls;
    bool accepting = false;
    bool productive = false;
  };

  // The compiled rule of a grammar rule, or of a large repeated part.
  int rule_of(RuleId id) {
    const auto [found, added] =
        rule_names_.try_emplace(static_cast<int>(id), static_cast<int>(bodies_.size()));
    if (added) {
      const Rule& rule = builder_.rule(id);
      bodies_.push_back({rule.name, rule.body, rules_.nullable(id)});
    }
    return found->second;
  }

  int rule_of_part(ExprId id) {
    const auto [found, added] =
        part_names_.try_emplace(static_cast<int>(id), static_cast<int>(bodies_.size()));
    if (added) {
      bodies_.push_back({"a repeated part", id, rules_.is_nullable(id)});
    }
    return found->second;
  }

  // ---- expression to nondeterministic automaton
  // add() makes no edge into `from` and none out of `to`, so parts can share both.

  int add_state() {
    if (nfa_.size() >= limits_.max_states * 8) throw_size();
    clock_.tick();
    nfa_.emplace_back();
    return static_cast<int>(nfa_.size() - 1);
  }

  [[noreturn]] void throw_size() const {
    throw Error("the grammar needs more than {} automaton states; simplify it or lower its bounds",
                limits_.max_states);
  }

  void add(ExprId id, int from, int to) {
    const Expr& expr = builder_.expr(id);
    switch (expr.kind) {
      case Expr::Kind::kLiteral:
        add_literal(expr.literal, from, to);
        break;
      case Expr::Kind::kChars:
        add_chars(expr.chars, from, to);
        break;
      case Expr::Kind::kSequence:
        for (std::size_t i = 0; i + 1 < expr.parts.size(); ++i) {
          const int next = add_state();
          add(expr.parts[i], from, next);
          from = next;
        }
        if (expr.parts.empty()) {
          nfa_[index(from)].jumps.push_back(to);
        } else {
          add(expr.parts.back(), from, to);
        }
        break;
      case Expr::Kind::kChoice:
        for (const ExprId part : expr.parts) add(part, from, to);
        break;
      case Expr::Kind::kRepeat:
        add_repeat(expr, from, to);
        break;
      case Expr::Kind::kRule:
        if (rules_.is_inlined(static_cast<int>(expr.rule))) {
          add(builder_.rule(expr.rule).body, from, to);
        } else {
          add_call(rule_of(expr.rule), from, to);
        }
        break;
      case Expr::Kind::kNetwork:
        add_network(expr, from, to);
        break;
    }
  }

  void add_call(int rule, int from, int to) {
    nfa_[index(from)].calls.push_back({rule, to});
    if (bodies_[index(rule)].nullable) nfa_[index(from)].jumps.push_back(to);
  }

  void add_literal(const std::string& literal, int from, int to) {
    for (std::size_t i = 0; i < literal.size(); ++i) {
      const int next = i + 1 < literal.size() ? add_state() : to;
      const auto byte = static_cast<std::uint8_t>(literal[i]);
      nfa_[index(from)].bytes.push_back({byte, byte, next});
      from = next;
    }
  }

  // Equal tails of the byte sequences share their states.
  void add_chars(const CharSet& set, int from, int to) {
    std::map<std::vector<int>, int> tails;  // the remaining ranges
    for (const Utf8Sequence& sequence : utf8_sequences(set)) {
      int target = to;
      std::vector<int> key;
      for (int i = sequence.size - 1; i >= 0; --i) {
        const Utf8Sequence::Bytes bytes = sequence.bytes[index(i)];
        const int source = [&] {
          if (i == 0) return from;
          key.push_back(bytes.first * 256 + bytes.last);
          const auto [found, added] = tails.try_emplace(key, -1);
          if (added) {
            found->second = add_state();
            nfa_[index(found->second)].bytes.push_back({bytes.first, bytes.last, target});
          }
          return found->second;
        }();
        if (i == 0) nfa_[index(source)].bytes.push_back({bytes.first, bytes.last, target});
        target = source;
      }
    }
  }

  void add_repeat(const Expr& expr, int from, int to) {
    const ExprId part = expr.parts.front();
    const auto times = static_cast<std::size_t>(std::max({expr.min, expr.max, std::int64_t{1}}));
    if (times > limits_.max_states) throw_size();
    const bool calls = times > 1 && rules_.size_of(part) * times > kUnrolledStates;
    const auto add_part = [&](int begin, int end) {
      if (calls) {
        add_call(rule_of_part(part), begin, end);
      } else {
        add(part, begin, end);
      }
    };
    for (std::int64_t i = 0; i < expr.min; ++i) {
      const int next = add_state();
      add_part(from, next);
      from = next;
    }
    if (expr.max == kUnbounded) {
      const int loop = add_state();
      nfa_[index(from)].jumps.push_back(loop);
      add_part(loop, loop);
      nfa_[index(loop)].jumps.push_back(to);
      return;
    }
    nfa_[index(from)].jumps.push_back(to);
    for (std::int64_t i = expr.min; i < expr.max; ++i) {
      const int next = add_state();
      add_part(from, next);
      nfa_[index(next)].jumps.push_back(to);
      from = next;
    }
  }

  void add_network(const Expr& expr, int from, int to) {
    const int base = static_cast<int>(nfa_.size());
    for (int i = 0; i < expr.num_states; ++i) add_state();
    nfa_[index(from)].jumps.push_back(base);
    for (const Expr::Edge& edge : expr.edges) {
      if (edge.epsilon) {
        nfa_[index(base + edge.from)].jumps.push_back(base + edge.to);
      } else {
        add(edge.label, base + edge.from, base + edge.to);
      }
    }
    for (const int state : expr.accepting) nfa_[index(base + state)].jumps.push_back(to);
  }

  // ---- subsets

  struct SetHash {
    std::size_t operator()(const std::vector<int>& set) const {
      std::size_t hash = set.size();
      for (const int i : set) hash = hash * 0x9E3779B97F4A7C15U + index(i) + 1;
      return hash;
    }
  };
  using SetNames = std::unordered_map<std::vector<int>, int, SetHash>;

  // Keeps only states with edges, and the accepting one: others are on the way.
  std::vector<int> closure(std::vector<int> set) {
    ++epoch_;
    marks_.resize(nfa_.size(), 0);
    std::erase_if(set,
                  [&](int state) { return std::exchange(marks_[index(state)], epoch_) == epoch_; });
    std::vector<int> kept;
    for (std::size_t i = 0; i < set.size(); ++i) {
      const NfaState& state = nfa_[index(set[i])];
      if (!state.bytes.empty() || !state.calls.empty() || set[i] == accept_) kept.push_back(set[i]);
      for (const int target : state.jumps) {
        if (std::exchange(marks_[index(target)], epoch_) != epoch_) set.push_back(target);
      }
    }
    clock_.ticks += static_cast<unsigned>(set.size() / 64);
    clock_.tick();
    std::ranges::sort(kept);
    return kept;
  }

  int name(std::vector<int> set, SetNames& names, std::vector<std::vector<int>>& sets) {
    const auto [found, added] = names.try_emplace(std::move(set), static_cast<int>(states_.size()));
    if (added) {
      if (states_.size() >= limits_.max_states) throw_size();
      set_elements_ += found->first.size();
      if (set_elements_ > 30'000'000) throw_size();
      states_.emplace_back();
      sets.push_back(found->first);
    }
    return found->second;
  }

  void build_rule(int rule) {
    nfa_.clear();
    marks_.clear();
    epoch_ = 0;
    const int start = add_state();
    accept_ = add_state();
    add(bodies_[index(rule)].body, start, accept_);

    SetNames names;
    std::vector<std::vector<int>> sets;
    const int first = static_cast<int>(states_.size());
    bodies_[index(rule)].start = first;
    name(closure({start}), names, sets);
    for (std::size_t i = 0; i < sets.size(); ++i) {
      State state;
      const std::vector<int> set = sets[i];
      state.accepting = std::ranges::binary_search(set, accept_);
      byte_edges(set, state, names, sets);
      call_edges(set, state, names, sets);
      states_[index(first) + i] = std::move(state);
    }
  }

  void byte_edges(const std::vector<int>& set, State& state, SetNames& names,
                  std::vector<std::vector<int>>& sets) {
    std::vector<ByteEdge> edges;
    for (const int source : set) {
      const auto& own = nfa_[index(source)].bytes;
      edges.insert(edges.end(), own.begin(), own.end());
    }
    if (edges.empty()) return;
    std::ranges::sort(edges, {}, &ByteEdge::first);
    std::array<bool, 257> cut{};
    for (const ByteEdge& edge : edges) cut[edge.first] = cut[edge.last + 1U] = true;
    std::vector<ByteEdge> active;
    std::size_t next = 0;
    for (unsigned byte = 0; byte < 256;) {
      unsigned end = byte + 1;
      while (end < 256 && !cut[end]) ++end;
      std::erase_if(active, [&](const ByteEdge& edge) { return edge.last < byte; });
      for (; next < edges.size() && edges[next].first == byte; ++next)
        active.push_back(edges[next]);
      if (!active.empty()) {
        std::vector<int> targets;
        for (const ByteEdge& edge : active) targets.push_back(edge.target);
        const int target = name(closure(std::move(targets)), names, sets);
        const auto last = static_cast<std::uint8_t>(end - 1);
        if (!state.bytes.empty() && state.bytes.back().target == target &&
            state.bytes.back().last + 1U == byte) {
          state.bytes.back().last = last;
        } else {
          state.bytes.push_back({static_cast<std::uint8_t>(byte), last, target});
        }
      }
      byte = end;
    }
  }

  void call_edges(const std::vector<int>& set, State& state, SetNames& names,
                  std::vector<std::vector<int>>& sets) {
    std::map<int, std::vector<int>> targets;
    for (const int source : set) {
      for (const CallEdge& call : nfa_[index(source)].calls) {
        targets[call.rule].push_back(call.target);
      }
    }
    for (auto& [rule, states] : targets) {
      state.calls.push_back({rule, name(closure(std::move(states)), names, sets)});
    }
  }

  // ---- what can end

  // Worklist over "needs": a state is productive when it accepts, a byte leads to a productive
  // state, or a productive rule's call returns to one.
  void prune() {
    std::vector<std::vector<int>> sources(states_.size());
    std::vector<std::vector<int>> callers(bodies_.size());
    std::vector<int> work;
    const auto mark = [&](int state) {
      if (std::exchange(states_[index(state)].productive, true)) return;
      work.push_back(state);
    };
    std::vector<int> start_of(states_.size(), -1);
    for (std::size_t rule = 0; rule < bodies_.size(); ++rule) {
      start_of[index(bodies_[rule].start)] = static_cast<int>(rule);
    }
    for (std::size_t i = 0; i < states_.size(); ++i) {
      for (const ByteEdge& edge : states_[i].bytes) {
        sources[index(edge.target)].push_back(static_cast<int>(i));
      }
      for (const CallEdge& call : states_[i].calls) {
        sources[index(call.target)].push_back(static_cast<int>(i));
        callers[index(call.rule)].push_back(static_cast<int>(i));
      }
      if (states_[i].accepting) mark(static_cast<int>(i));
    }
    const auto productive_target = [&](int target) { return states_[index(target)].productive; };
    while (!work.empty()) {
      const int state = work.back();
      work.pop_back();
      const auto revisit = [&](int source) {
        const State& s = states_[index(source)];
        const bool now =
            std::ranges::any_of(s.bytes,
                                [&](const auto& e) { return productive_target(e.target); }) ||
            std::ranges::any_of(s.calls, [&](const auto& c) {
              return productive_target(c.target) && productive_target(bodies_[index(c.rule)].start);
            });
        if (now) mark(source);
      };
      for (const int source : sources[index(state)]) revisit(source);
      if (const int rule = start_of[index(state)]; rule >= 0) {
        for (const int source : callers[index(rule)]) revisit(source);
      }
    }
    for (State& state : states_) {
      std::erase_if(state.bytes, [&](const auto& e) { return !productive_target(e.target); });
      std::erase_if(state.calls, [&](const auto& c) {
        return !productive_target(c.target) || !productive_target(bodies_[index(c.rule)].start);
      });
    }
    if (!states_[index(bodies_.front().start)].productive) {
      throw Error("no text can satisfy the grammar");
    }
  }

  // Callers first, along calls that a rule makes before it has consumed anything.
  void rank() {
    const std::size_t n = bodies_.size();
    std::vector<int> state(n, 0);  // 1 = on the path, 2 = done
    std::vector<int> order;
    std::vector<std::pair<int, std::size_t>> work;
    for (std::size_t first = 0; first < n; ++first) {
      if (state[first] != 0) continue;
      state[first] = 1;
      work.emplace_back(static_cast<int>(first), 0);
      while (!work.empty()) {
        const int rule = work.back().first;
        const auto& calls = states_[index(bodies_[index(rule)].start)].calls;
        if (work.back().second < calls.size()) {
          const int callee = calls[work.back().second++].rule;
          if (state[index(callee)] == 1) {
            throw Error(
                "rule '{}' refers to itself before any text: left recursion is not supported",
                bodies_[index(callee)].name);
          }
          if (state[index(callee)] == 0) {
            state[index(callee)] = 1;
            work.emplace_back(callee, 0);
          }
          continue;
        }
        state[index(rule)] = 2;
        order.push_back(rule);
        work.pop_back();
      }
    }
    for (std::size_t i = 0; i < n; ++i) bodies_[index(order[i])].rank = static_cast<int>(n - 1 - i);
  }

  // ---- the table

  Automaton finish() {
    Automaton result;
    std::vector<int> renamed(states_.size(), Automaton::kDead);
    std::vector<int> kept;
    const auto keep = [&](int state) {
      if (renamed[index(state)] != Automaton::kDead) return;
      renamed[index(state)] = static_cast<int>(kept.size());
      kept.push_back(state);
    };
    keep(bodies_.front().start);
    std::array<bool, 257> cut{};
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const State& state = states_[index(kept[i])];
      for (const ByteEdge& edge : state.bytes) {
        cut[edge.first] = cut[edge.last + 1U] = true;
        keep(edge.target);
      }
      for (const CallEdge& call : state.calls) {
        keep(call.target);
        keep(bodies_[index(call.rule)].start);
      }
    }
    std::size_t classes = 0;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      if (byte > 0 && cut[byte]) ++classes;
      result.classes_[byte] = static_cast<std::uint8_t>(classes);
    }
    result.num_classes_ = classes + 1;
    if (kept.size() * result.num_classes_ * sizeof(int) > limits_.max_table_bytes) throw_size();
    result.table_.assign(kept.size() * result.num_classes_, Automaton::kDead);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const State& state = states_[index(kept[i])];
      clock_.tick();
      for (const ByteEdge& edge : state.bytes) {
        const std::size_t row = i * result.num_classes_;
        for (std::size_t c = result.classes_[edge.first]; c <= result.classes_[edge.last]; ++c) {
          result.table_[row + c] = renamed[index(edge.target)];
        }
      }
      result.call_begin_.push_back(result.calls_.size());
      for (const CallEdge& call : state.calls) {
        result.calls_.push_back({call.rule, renamed[index(call.target)]});
      }
      result.accepting_.push_back(state.accepting ? 1 : 0);
      result.final_only_.push_back(
          state.accepting && state.bytes.empty() && state.calls.empty() ? 1 : 0);
    }
    result.call_begin_.push_back(result.calls_.size());
    for (const Body& body : bodies_) {
      result.rules_.push_back({body.name, renamed[index(body.start)], body.rank});
    }
    return result;
  }

  struct Body {
    std::string name;
    ExprId body{};
    bool nullable = false;
    int start = 0;
    int rank = 0;
  };

  GrammarBuilder& builder_;
  const CompileLimits limits_;
  CompileClock clock_;
  RuleAnalysis rules_;
  // Compiled rules.
  std::map<int, int> rule_names_, part_names_;
  std::vector<Body> bodies_;
  std::vector<State> states_;  // of all rules
  std::size_t set_elements_ = 0;
  // The rule in work.
  std::vector<NfaState> nfa_;
  int accept_ = 0;
  std::vector<unsigned> marks_;
  unsigned epoch_ = 0;
};

std::size_t Automaton::bytes() const {
  return table_.size() * sizeof(int) + calls_.size() * sizeof(Call) +
         accepting_.size() * (2 + sizeof(std::size_t));
}

Automaton compile(GrammarBuilder& builder, RuleId root, const CompileLimits& limits) {
  return AutomatonCompiler(builder, limits).compile(root);
}

}  // namespace quern::grammar
