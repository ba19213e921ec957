// Grammars written in EBNF: the notation of structured_outputs.grammar (xgrammar's EBNF, which is
// llama.cpp's GBNF).
// Must never accept what it does not implement: lookahead, Lark files and left recursion through
// other rules are refused by name.
// Proved by tests/grammar/ebnf_test.cc.
#pragma once

#include <string_view>

#include "quern/grammar/expression.h"

namespace quern::grammar {

// rule ::= "text" | [a-z] | other ( ... )* + ? {n} {n,} {n,m}     # comment
// `.` is any character; a rule that begins with itself (a ::= a "x" | "y") is rewritten to a
// repeat. Adds the rules to `builder` and returns `root`. Throws Error with the line.
RuleId parse_ebnf(std::string_view text, GrammarBuilder& builder);

}  // namespace quern::grammar
