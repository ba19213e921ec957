// The version of the program, as CMakeLists.txt says it: the one place.
// Must never be written out anywhere else.
// Proved by tests/apps (quern --version) and by the quantizer's config.json.
#pragma once

#include <string_view>

namespace quern {

std::string_view version();  // "0.1.0"

}  // namespace quern
