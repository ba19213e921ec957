// The parsed tree of a template, for code of this folder that reads templates without rendering
// them. Must never be used outside of text/. Proved by tests/text/chat_template_test.cc.
#pragma once

#include "quern/text/jinja.h"
#include "quern/text/jinja/ast.h"

namespace quern::jinja {

const Tree& tree_of(const Template& parsed);

}  // namespace quern::jinja
