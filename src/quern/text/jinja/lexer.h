// Cuts a template into text and tokens, with jinja2's rules for white space and line ends.
// Must never decide what a token means: names and keywords are one kind here.
// Proved by tests/text/jinja_golden_test.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quern/text/jinja.h"

namespace quern::jinja {

struct Token {
  enum class Kind {
    kText,
    kPrintBegin,
    kPrintEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind;
  std::string text;  // of a string: unescaped; of an operator: itself
  int line;
};

// Throws Error "line N: ..." for what cannot be cut. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source, const TemplateSyntax& syntax);

}  // namespace quern::jinja
