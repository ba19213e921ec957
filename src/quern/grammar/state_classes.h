// Which states of an automaton cannot be told apart within so many bytes: they allow the same
// tokens of that length. A string of at most 2000 characters has a state for each character left,
// and nearly all of them are alike to a token.
// Must never put two states into a class that some text of the length tells apart.
// Proved by tests/grammar/state_classes_test.cc and token_mask_test.cc.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "quern/grammar/automaton.h"

namespace quern::grammar {

class StateClasses {
 public:
  // For each of `lengths`, which ascend. Behind `max_work` looks at the table the states of the
  // remaining lengths are each a class of their own.
  StateClasses(const Automaton& automaton, std::span<const int> lengths, std::size_t max_work);

  // Of a state for lengths[length]: equal numbers are equal classes.
  int of(int state, std::size_t length) const {
    const std::vector<int>& classes = classes_[length];
    return classes.empty() ? state : classes[static_cast<std::size_t>(state)];
  }
  int count(std::size_t length) const { return counts_[length]; }

 private:
  std::vector<std::vector<int>> classes_;  // by length; empty: each state its own
  std::vector<int> counts_;
};

}  // namespace quern::grammar
