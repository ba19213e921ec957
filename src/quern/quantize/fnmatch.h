// Python's fnmatch.fnmatchcase, which Quark matches module names with.
// Must never take time exponential in the pattern: a pattern is user input.
// Proved by tests/quantize/fnmatch_test.cc (a table made with Python).
#pragma once

#include <string_view>

namespace quern {

// Whole-string match: `*` any run (dots too), `?` one character, `[abc]`, `[a-z]`, `[!abc]`; no
// escape character; a `[` that is never closed stands for itself. Bytes, not code points, are
// characters.
bool fnmatch(std::string_view name, std::string_view pattern);

}  // namespace quern
