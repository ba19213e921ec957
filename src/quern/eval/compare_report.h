// A comparison as text for a terminal, as JSON, as Markdown and as a web page.
// Must never let text of a model or a data set act as markup: everything is escaped or fenced.
// Proved by tests/eval/compare_test.cc.
#pragma once

#include <string>

#include "quern/base/json.h"
#include "quern/eval/compare.h"

namespace quern {

std::string comparison_table(const Comparison& comparison);
Json comparison_json(const Comparison& comparison);

// The tables, then for each score the questions lost and won, with both answers.
std::string comparison_markdown(const Comparison& comparison);
// The same as one self-contained page (no script, nothing loaded), all questions side by side.
std::string comparison_html(const Comparison& comparison);

std::string escape_html(std::string_view text);

// "97.71 to 102.35" in percent, "n/a" where there is none.
std::string interval_text(const std::optional<Interval>& interval);

}  // namespace quern
