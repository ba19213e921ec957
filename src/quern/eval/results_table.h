// The harness's Markdown table of results.
// Must never round a value differently from its "%.4f".
// Proved by tests/eval/results_table_test.cc (tables of the harness's own make_table).
#pragma once

#include <string>

#include "quern/base/json.h"

namespace quern {

// The table of a results file (ours or the harness's), tasks sorted by name.
std::string results_table(const Json& results);

}  // namespace quern
