// Regular expressions of requests (ECMA-262 and Python's common part) as automata.
// Must never guess: a construct that is not regular or not known is refused by its name.
// Proved by tests/grammar/regex_test.cc.
#pragma once

#include <string_view>

#include "quern/grammar/char_automaton.h"

namespace quern::grammar {

enum class RegexMatch {
  kWhole,   // the text is one match: structured_outputs.regex
  kSearch,  // a match lies somewhere in the text: JSON Schema's pattern
};

// Known: literals, escapes, classes with ranges and negation, \d \w \s (ASCII digits and words,
// Unicode white space), \p{...}, groups of all capturing kinds, alternation, * + ? {n} {n,} {n,m}
// and their lazy forms, ^ and $. `.` is any character but a line end. Throws Error that names what
// is refused and where.
CharAutomaton regex_automaton(std::string_view pattern, RegexMatch match);

}  // namespace quern::grammar
