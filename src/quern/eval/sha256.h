// SHA-256 of text in lower-case hex, the hash of every golden value of the harness.
// Must never be used for passwords or signatures.
// Proved by tests/eval/python_text_test.cc.
#pragma once

#include <string>
#include <string_view>

namespace quern {

std::string sha256_hex(std::string_view text);

}  // namespace quern
