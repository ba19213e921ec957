// A JSON Schema compiled for tests, and texts tried on it.
// Must never hide an error: compilation throws.
// Proved by use.
#pragma once

#include <string>
#include <string_view>

#include "quern/grammar/automaton.h"
#include "quern/grammar/json_grammar.h"
#include "quern/grammar/matcher.h"

namespace quern::grammar::test {

inline Automaton compile_schema(const Json& schema, bool closed, const JsonStyle& style = {}) {
  GrammarBuilder builder;
  SchemaReader reader(schema, {.closed = closed});
  JsonGrammar grammar(builder, style);
  const RuleId root = builder.add_rule("root");
  builder.define(root, grammar.schema(reader));
  grammar.finish();
  return compile(builder, root);
}

inline bool accepts(const Automaton& automaton, std::string_view text) {
  Matcher matcher(automaton);
  return matcher.accept(text) && matcher.can_end();
}

}  // namespace quern::grammar::test
