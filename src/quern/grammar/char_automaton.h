// Deterministic automata over characters: what a string may look like, before any encoding.
// Must never grow beyond its limit of states: the operation throws Error instead.
// Proved by tests/grammar/regex_test.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/grammar/char_set.h"

namespace quern::grammar {

inline constexpr std::size_t kMaxCharStates = 60000;

// State 0 is the start; without states nothing is accepted. Edges are sorted and disjoint.
struct CharAutomaton {
  struct Edge {
    char32_t first;
    char32_t last;
    int target;
  };
  struct State {
    std::vector<Edge> edges;
    bool accepting = false;
  };
  std::vector<State> states;

  // After the character, or -1.
  int next(int state, char32_t c) const;
  bool accepts(std::string_view utf8) const;
  bool empty() const { return states.empty(); }
};

// Every text of `min` to `max` characters (no limit without `max`).
CharAutomaton text_of_length(std::int64_t min, std::optional<std::int64_t> max);
// Every text in which `marker` (ASCII, not empty) does not occur.
CharAutomaton text_without(std::string_view marker);
// Exactly these texts.
CharAutomaton one_of(const std::vector<std::string>& texts);

CharAutomaton intersect(const CharAutomaton& a, const CharAutomaton& b);
// What `a` accepts and `b` does not.
CharAutomaton minus(const CharAutomaton& a, const CharAutomaton& b);

// Nondeterministic automata, from which the deterministic ones are made. Begin and end edges are
// the anchors ^ and $: free at the start of the text, at its end.
struct CharNfa {
  enum class Condition { kNone, kBegin, kEnd };
  struct Jump {
    int target;
    Condition condition;
  };
  struct State {
    std::vector<CharAutomaton::Edge> edges;
    std::vector<Jump> jumps;
  };
  std::vector<State> states;
  std::size_t num_edges = 0;
  int start = 0;
  int accept = 0;

  int add_state();
  void add_edge(int from, const CharSet& set, int to);
  void add_jump(int from, int to, Condition condition = Condition::kNone);
};

CharAutomaton determinize(const CharNfa& nfa);

}  // namespace quern::grammar
