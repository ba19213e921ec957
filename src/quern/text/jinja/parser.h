// Tokens to tree, with jinja2's grammar and precedence.
// Must never recurse deeper than a limit, whatever the template.
// Proved by tests/text/jinja_golden_test.cc.
#pragma once

#include <string_view>

#include "quern/text/jinja.h"
#include "quern/text/jinja/ast.h"

namespace quern::jinja {

// Throws Error "line N: ...".
Tree parse_template(std::string_view source, const TemplateSyntax& syntax);

}  // namespace quern::jinja
