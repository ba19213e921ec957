// The harness's Markdown table of results, and the writer of such tables.
// Must never round a value differently from its "%.4f" and its column rules.
// Proved by tests/eval/results_table_test.cc (tables of the harness's own make_table).
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"

namespace quern {

// pytablewriter's Markdown: text cells left, number cells right, all numbers of a column with the
// decimals that its most precise cell needs, headers centred.
std::string markdown_table(const std::vector<std::string>& headers,
                           const std::vector<std::vector<std::string>>& rows);

// The table of a results file (ours or the harness's), tasks sorted by name.
std::string results_table(const Json& results);

}  // namespace quern
