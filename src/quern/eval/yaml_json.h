// YAML text as JSON values, resolved as PyYAML's safe loader does (YAML 1.1).
// Must never expand aliases without a bound or run a tag such as !function.
// Proved by tests/eval/task_file_test.cc.
#pragma once

#include <string>
#include <string_view>

#include "quern/base/json.h"

namespace quern {

// `source` names the file in errors.
Json parse_yaml(const std::string& text, std::string_view source);

}  // namespace quern
