// Decimal numbers within bounds, as automata over their text.
// Must never accept a text whose value a reader would round out of the bounds.
// Proved by tests/grammar/number_text_test.cc (against arithmetic).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quern/grammar/char_automaton.h"

namespace quern::grammar {

struct NumberBound {
  double value;
  bool exclusive = false;
};

struct NumberBounds {
  std::optional<NumberBound> low;
  std::optional<NumberBound> high;
  std::vector<std::int64_t> multiples;  // each positive
  bool bounded() const { return low || high || !multiples.empty(); }
};

// Largest divisor that multipleOf may name.
inline constexpr std::int64_t kMaxMultiple = 10000;

// -?(0|[1-9][0-9]*) within the bounds; without an exponent or fraction.
CharAutomaton integer_text(const NumberBounds& bounds);
// A JSON number. With bounds it has no exponent and, where one excludes its end, a limited number
// of decimals, so that the value as a double does not round to it.
CharAutomaton number_text(const NumberBounds& bounds);

}  // namespace quern::grammar
