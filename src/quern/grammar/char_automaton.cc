// See char_automaton.h.
#include "quern/grammar/char_automaton.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "quern/base/error.h"
#include "quern/grammar/index.h"
#include "quern/text/utf8.h"

namespace quern::grammar {
namespace {

void check_size(std::size_t states) {
  if (states > kMaxCharStates) {
    throw Error(
        "a string constraint needs more than {} automaton states; use a simpler pattern or a "
        "smaller length",
        kMaxCharStates);
  }
}

// Steps of one operation: about a second.
void check_work(std::size_t steps) {
  constexpr std::size_t kMaxWork = 40'000'000;
  if (steps > kMaxWork) throw Error("the pattern is too complex");
}

// Drops states from which no accepting one can be reached, and edges to them.
CharAutomaton trimmed(const CharAutomaton& automaton) {
  const std::size_t n = automaton.states.size();
  std::vector<std::vector<int>> sources(n);
  std::vector<int> work;
  std::vector<bool> useful(n, false);
  for (std::size_t i = 0; i < n; ++i) {
    for (const auto& edge : automaton.states[i].edges) {
      sources[index(edge.target)].push_back(static_cast<int>(i));
    }
    if (automaton.states[i].accepting) {
      useful[i] = true;
      work.push_back(static_cast<int>(i));
    }
  }
  while (!work.empty()) {
    const int state = work.back();
    work.pop_back();
    for (const int source : sources[index(state)]) {
      if (useful[index(source)]) continue;
      useful[index(source)] = true;
      work.push_back(source);
    }
  }
  CharAutomaton result;
  if (n == 0 || !useful[0]) return result;
  std::vector<int> renamed(n, -1);
  int count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (useful[i]) renamed[i] = count++;
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (!useful[i]) continue;
    auto& state = result.states.emplace_back();
    state.accepting = automaton.states[i].accepting;
    for (auto edge : automaton.states[i].edges) {
      edge.target = renamed[index(edge.target)];
      if (edge.target >= 0) state.edges.push_back(edge);
    }
  }
  return result;
}

// One side of a product: -1 has left the automaton.
template <typename Visit>
void for_each_piece(const CharAutomaton::State* a, const CharAutomaton::State* b, Visit&& visit) {
  std::vector<char32_t> cuts;
  for (const auto* state : {a, b}) {
    if (state == nullptr) continue;
    for (const auto& edge : state->edges) {
      cuts.push_back(edge.first);
      cuts.push_back(edge.last + 1);
    }
  }
  std::ranges::sort(cuts);
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  const auto target = [](const CharAutomaton::State* state, auto& cursor, char32_t c) {
    if (state == nullptr) return -1;
    while (cursor < state->edges.size() && state->edges[cursor].last < c) ++cursor;
    return cursor < state->edges.size() && state->edges[cursor].first <= c
               ? state->edges[cursor].target
               : -1;
  };
  std::size_t in_a = 0;
  std::size_t in_b = 0;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const int to_a = target(a, in_a, cuts[i]);
    const int to_b = target(b, in_b, cuts[i]);
    if (to_a >= 0 || to_b >= 0) visit(cuts[i], cuts[i + 1] - 1, to_a, to_b);
  }
}

// The reachable product, without the pairs that have left `a`, and, with `needs_b`, `b`.
CharAutomaton product(const CharAutomaton& a, const CharAutomaton& b, bool needs_b) {
  CharAutomaton result;
  if (a.empty() || (needs_b && b.empty())) return result;
  std::map<std::pair<int, int>, int> names;
  std::vector<std::pair<int, int>> pairs;
  const auto name = [&](int in_a, int in_b) {
    const auto [found, added] = names.try_emplace({in_a, in_b}, static_cast<int>(pairs.size()));
    if (added) pairs.emplace_back(in_a, in_b);
    check_size(pairs.size());
    return found->second;
  };
  name(0, b.empty() ? -1 : 0);
  std::size_t work = 0;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto [in_a, in_b] = pairs[i];
    const CharAutomaton::State* from_b = in_b < 0 ? nullptr : &b.states[index(in_b)];
    work += a.states[index(in_a)].edges.size() + (from_b == nullptr ? 0 : from_b->edges.size());
    check_work(work);
    CharAutomaton::State state;
    const bool b_accepts = from_b != nullptr && from_b->accepting;
    state.accepting = a.states[index(in_a)].accepting && b_accepts == needs_b;
    for_each_piece(&a.states[index(in_a)], from_b,
                   [&](char32_t first, char32_t last, int to_a, int to_b) {
                     if (to_a < 0 || (needs_b && to_b < 0)) return;
                     state.edges.push_back({first, last, name(to_a, to_b)});
                   });
    result.states.push_back(std::move(state));
  }
  return trimmed(result);
}

using StateSet = std::vector<int>;

// Adds what is reached by jumps; sorted. The number of steps.
std::size_t close(const CharNfa& nfa, StateSet& set, bool at_begin, bool at_end,
                  std::vector<bool>& marks) {
  std::size_t steps = 0;
  for (const int state : set) marks[index(state)] = true;
  for (std::size_t i = 0; i < set.size(); ++i) {
    steps += 1 + nfa.states[index(set[i])].jumps.size();
    for (const CharNfa::Jump& jump : nfa.states[index(set[i])].jumps) {
      const bool open = jump.condition == CharNfa::Condition::kNone ||
                        (jump.condition == CharNfa::Condition::kBegin && at_begin) ||
                        (jump.condition == CharNfa::Condition::kEnd && at_end);
      if (!open || marks[index(jump.target)]) continue;
      marks[index(jump.target)] = true;
      set.push_back(jump.target);
    }
  }
  for (const int state : set) marks[index(state)] = false;
  std::ranges::sort(set);
  return steps;
}

class Determinizer {
 public:
  explicit Determinizer(const CharNfa& nfa) : nfa_(nfa), marks_(nfa.states.size(), false) {}

  CharAutomaton run() {
    StateSet start = {nfa_.start};
    work(close(nfa_, start, true, false, marks_));
    // The start set is entered only at the start: a later equal set has another acceptance.
    sets_.push_back(start);
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      CharAutomaton::State state;
      const StateSet set = sets_[i];
      state.accepting = accepts(set, i == 0);
      add_edges(set, state);
      automaton_.states.push_back(std::move(state));
    }
    return trimmed(automaton_);
  }

 private:
  bool accepts(StateSet set, bool at_begin) {
    work(close(nfa_, set, at_begin, true, marks_));
    return std::ranges::binary_search(set, nfa_.accept);
  }

  int name(StateSet set) {
    const auto [found, added] = names_.try_emplace(std::move(set), static_cast<int>(sets_.size()));
    if (added) sets_.push_back(found->first);
    check_size(sets_.size());
    return found->second;
  }

  void add_edges(const StateSet& set, CharAutomaton::State& state) {
    std::vector<CharAutomaton::Edge> edges;
    for (const int source : set) {
      const auto& own = nfa_.states[index(source)].edges;
      edges.insert(edges.end(), own.begin(), own.end());
    }
    std::ranges::sort(edges, {}, &CharAutomaton::Edge::first);
    std::vector<char32_t> cuts;
    for (const auto& edge : edges) {
      cuts.push_back(edge.first);
      cuts.push_back(edge.last + 1);
    }
    std::ranges::sort(cuts);
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    std::vector<CharAutomaton::Edge> active;
    std::size_t next = 0;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      std::erase_if(active, [&](const auto& edge) { return edge.last < cuts[i]; });
      for (; next < edges.size() && edges[next].first == cuts[i]; ++next) {
        active.push_back(edges[next]);
      }
      if (active.empty()) continue;
      work(active.size());
      StateSet targets;
      for (const auto& edge : active) targets.push_back(edge.target);
      std::ranges::sort(targets);
      targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
      work(close(nfa_, targets, false, false, marks_));
      const int target = name(std::move(targets));
      const char32_t last = cuts[i + 1] - 1;
      if (!state.edges.empty() && state.edges.back().target == target &&
          state.edges.back().last + 1 == cuts[i]) {
        state.edges.back().last = last;
      } else {
        state.edges.push_back({cuts[i], last, target});
      }
    }
  }

  void work(std::size_t steps) {
    work_ += steps;
    check_work(work_);
  }

  const CharNfa& nfa_;
  std::vector<bool> marks_;
  std::map<StateSet, int> names_;
  std::vector<StateSet> sets_;
  CharAutomaton automaton_;
  std::size_t work_ = 0;
};

}  // namespace

int CharAutomaton::next(int state, char32_t c) const {
  const auto& edges = states[index(state)].edges;
  const auto after = std::ranges::upper_bound(edges, c, {}, &Edge::first);
  if (after == edges.begin() || c > std::prev(after)->last) return -1;
  return std::prev(after)->target;
}

bool CharAutomaton::accepts(std::string_view utf8) const {
  if (states.empty()) return false;
  int state = 0;
  while (!utf8.empty()) {
    const Utf8Scan scan = scan_utf8(utf8);
    if (scan.kind != Utf8Scan::Kind::kValid) return false;
    state = next(state, scan.code_point);
    if (state < 0) return false;
    utf8.remove_prefix(scan.length);
  }
  return states[index(state)].accepting;
}

CharAutomaton text_of_length(std::int64_t min, std::optional<std::int64_t> max) {
  CharAutomaton result;
  if (max && *max < min) return result;
  check_size(static_cast<std::size_t>(
      std::min<std::int64_t>(std::max(min, max.value_or(0)), kMaxCharStates + 1)));
  const std::int64_t last = max.value_or(min);
  for (std::int64_t i = 0; i <= last; ++i) {
    auto& state = result.states.emplace_back();
    state.accepting = i >= min;
    const auto target = static_cast<int>(i < last ? i + 1 : i);
    if (i < last || !max) state.edges.push_back({0, kLastChar, target});
  }
  return result;
}

CharAutomaton text_without(std::string_view marker) {
  CharAutomaton result;
  for (std::size_t i = 0; i < marker.size(); ++i) {  // `i` characters of the marker were seen
    auto& state = result.states.emplace_back();
    state.accepting = true;
    char32_t from = 0;
    for (char32_t c = 0; c < 0x80; ++c) {
      std::string seen(marker.substr(0, i));
      seen += static_cast<char>(c);
      std::size_t kept = std::min(seen.size(), marker.size());
      while (!marker.starts_with(std::string_view(seen).substr(seen.size() - kept))) --kept;
      if (kept == 0) continue;
      if (c > from) state.edges.push_back({from, c - 1, 0});
      if (kept < marker.size()) state.edges.push_back({c, c, static_cast<int>(kept)});
      from = c + 1;
    }
    state.edges.push_back({from, kLastChar, 0});
  }
  return result;
}

CharAutomaton one_of(const std::vector<std::string>& texts) {
  CharNfa nfa;
  nfa.start = nfa.add_state();
  nfa.accept = nfa.add_state();
  for (const std::string& text : texts) {
    int state = nfa.start;
    std::string_view rest = text;
    while (!rest.empty()) {
      const Utf8Scan scan = scan_utf8(rest);
      if (scan.kind != Utf8Scan::Kind::kValid) throw Error("text is not valid UTF-8");
      const int next = nfa.add_state();
      nfa.add_edge(state, CharSet::of(scan.code_point), next);
      state = next;
      rest.remove_prefix(scan.length);
    }
    nfa.add_jump(state, nfa.accept);
  }
  return determinize(nfa);
}

CharAutomaton intersect(const CharAutomaton& a, const CharAutomaton& b) {
  return product(a, b, true);
}
CharAutomaton minus(const CharAutomaton& a, const CharAutomaton& b) { return product(a, b, false); }

int CharNfa::add_state() {
  constexpr std::size_t kMaxNfaStates = 400'000;
  if (states.size() >= kMaxNfaStates) throw Error("the pattern is too large");
  states.emplace_back();
  return static_cast<int>(states.size() - 1);
}

void CharNfa::add_edge(int from, const CharSet& set, int to) {
  constexpr std::size_t kMaxNfaEdges = 8'000'000;
  num_edges += set.ranges().size();
  if (num_edges > kMaxNfaEdges) throw Error("the pattern is too large");
  for (const CharRange& range : set.ranges()) {
    states[index(from)].edges.push_back({range.first, range.last, to});
  }
}

void CharNfa::add_jump(int from, int to, Condition condition) {
  states[index(from)].jumps.push_back({to, condition});
}

CharAutomaton determinize(const CharNfa& nfa) { return Determinizer(nfa).run(); }

}  // namespace quern::grammar
