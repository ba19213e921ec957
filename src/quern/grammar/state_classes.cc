// See state_classes.h. Moore's refinement, stopped at each length: after k rounds two states are in
// a class when both or neither accept, the same bytes lead them to equal classes of round k - 1,
// and the same rules called from them return to such. A called rule consumes at least one byte (the
// compiler skips those that may be empty), so the round that a call costs is paid.
#include "quern/grammar/state_classes.h"

#include <unordered_map>

#include "quern/grammar/index.h"

namespace quern::grammar {
namespace {

// One round: states as keys that compare by what they do.
class Round {
 public:
  Round(const Automaton& automaton, const std::vector<int>& before)
      : automaton_(automaton), before_(before) {}

  std::size_t hash(int state) const {
    std::size_t value = automaton_.accepting(state) ? 1 : 0;
    const auto mix = [&value](int part) {
      value = (value ^ static_cast<std::size_t>(part + 1)) * 0x9E3779B97F4A7C15U;
      value ^= value >> 29;
    };
    for (const int next : automaton_.row(state)) mix(class_of(next));
    for (const Automaton::Call& call : automaton_.calls(state)) {
      mix(call.rule);
      mix(class_of(call.return_state));
    }
    return value;
  }

  bool equal(int a, int b) const {
    const auto calls = automaton_.calls(a), others = automaton_.calls(b);
    if (automaton_.accepting(a) != automaton_.accepting(b) || calls.size() != others.size()) {
      return false;
    }
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i].rule != others[i].rule ||
          class_of(calls[i].return_state) != class_of(others[i].return_state)) {
        return false;
      }
    }
    const auto row = automaton_.row(a), other = automaton_.row(b);
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (class_of(row[i]) != class_of(other[i])) return false;
    }
    return true;
  }

 private:
  int class_of(int state) const {
    return state == Automaton::kDead ? Automaton::kDead : before_[index(state)];
  }

  const Automaton& automaton_;
  const std::vector<int>& before_;
};

// The classes of the next round; their number.
int refine(const Automaton& automaton, std::vector<int>& classes) {
  const Round round(automaton, classes);
  const auto hash = [&round](int state) { return round.hash(state); };
  const auto equal = [&round](int a, int b) { return round.equal(a, b); };
  std::unordered_map<int, int, decltype(hash), decltype(equal)> names(64, hash, equal);
  std::vector<int> next(classes.size());
  for (int state = 0; state < automaton.num_states(); ++state) {
    next[index(state)] = names.try_emplace(state, static_cast<int>(names.size())).first->second;
  }
  const int count = static_cast<int>(names.size());
  classes = std::move(next);
  return count;
}

}  // namespace

StateClasses::StateClasses(const Automaton& automaton, std::span<const int> lengths,
                           std::size_t max_work)
    : classes_(lengths.size()), counts_(lengths.size(), automaton.num_states()) {
  const std::size_t round_work = index(automaton.num_states()) * automaton.row(0).size();
  std::vector<int> classes(index(automaton.num_states()));
  for (int state = 0; state < automaton.num_states(); ++state) {
    classes[index(state)] = automaton.accepting(state) ? 1 : 0;
  }
  int count = 0;
  bool stable = false;
  std::size_t work = 0;
  int rounds = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    for (; rounds < lengths[i] && !stable; ++rounds) {
      work += round_work;
      if (work > max_work) return;
      const int refined = refine(automaton, classes);
      stable = refined == count;
      count = refined;
    }
    classes_[i] = classes;
    counts_[i] = count;
  }
}

}  // namespace quern::grammar
