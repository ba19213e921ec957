// The one place that reads environment variables.
// Must never be called after start-up.
// Proved by tests/base/error_test.cc.
#pragma once

#include <optional>
#include <string>

namespace quern {

// The value, or empty when the variable is unset.
std::optional<std::string> environment(const char* name);

}  // namespace quern
