// MiniMax-M3's tool calls as a grammar: calls that the tool parser reads to arguments that the
// tools' schemas allow. Must never describe a call that the parser reads differently: it asks the
// parser's own conversion. Proved by tests/grammar/tool_grammar_test.cc (against
// quern/text/tool_parser.h).
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/grammar/expression.h"

namespace quern::grammar {

enum class ToolMode {
  kRequired,  // a block of calls and nothing else
  kFree,      // any text; calls, if any, as the schemas say (strict tools)
};

struct ToolGrammarOptions {
  ToolMode mode = ToolMode::kRequired;
  std::string name{};    // only this function, one call; "": any
  bool parallel = true;  // more than one call
};

// The same tools with local references of their parameters put in place, as far as they do not
// recurse and stay small: the parser does not follow references.
Json with_references_resolved(const Json& tools);

// `tools` of a request, references resolved. A tool with "strict": true whose schema is not
// supported is an Error; another one is then free in its arguments' texts.
RuleId tool_grammar(const Json& tools, const ToolGrammarOptions& options, GrammarBuilder& builder);

}  // namespace quern::grammar
