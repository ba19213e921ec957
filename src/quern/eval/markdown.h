// Markdown as reports write it: tables in the form of the harness's, and blocks of text.
// Must never let a text end its own block, nor round a number that it is given.
// Proved by tests/eval/results_table_test.cc (tables of the harness's own make_table).
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <vector>

namespace quern {

// pytablewriter's Markdown: text cells left, number cells right with the decimals that the most
// precise cell of the column needs, headers centred. A column that begins with text is all text,
// unless it is among `number_columns`, whose numbers were no text.
std::string markdown_table(const std::vector<std::string>& headers,
                           const std::vector<std::vector<std::string>>& rows,
                           const std::set<std::size_t>& number_columns = {});

// The text between fences that it cannot close: one backtick more than the longest run in it.
std::string markdown_fence(const std::string& text, const std::string& language = "");

// A share as percent with two decimals: 0.9884 gives 98.84.
std::string percent(double share);

}  // namespace quern
