// Score files of lm-evaluation-harness: filters and metric re-applied to its answers give its
// extraction and score in every line. tests/golden/eval/README.md says how the file was made.
#include <gtest/gtest.h>

#include <set>

#include "quern/eval/dataset.h"
#include "quern/eval/scoring.h"

namespace quern {
namespace {

TEST(HarnessGolden, EveryLineOfASamplesFile) {
  const EvalTask task = load_task("gsm8k", {});
  const ExactMatch metric(task.metrics.at(0).exact_match);
  std::map<std::string, AnswerFilter> filters;
  for (const FilterSpec& spec : task.filters) filters.emplace(spec.name, AnswerFilter(spec));
  std::map<std::string, std::pair<int, int>> right;
  for (const Json& line : read_jsonl(QUERN_SOURCE_DIR "/tests/golden/eval/harness_samples.jsonl")) {
    const std::string answer = line["resps"][0][0].get<std::string>();
    const std::string filter = line["filter"].get<std::string>();
    const Json extracted = filters.at(filter).apply({answer});
    EXPECT_EQ(extracted, line["filtered_resps"][0]) << answer;
    EXPECT_EQ(metric.score(extracted.get<std::string>(), line["target"].get<std::string>()),
              line["exact_match"])
        << answer;
    right[filter].first += line["exact_match"] == 1.0 ? 1 : 0;
    right[filter].second += 1;
  }
  ASSERT_EQ(right.size(), 2U);
  for (const auto& [filter, counts] : right) {
    EXPECT_GT(counts.first * 10, counts.second * 3) << filter;  // right and wrong each 30 % or more
    EXPECT_LT(counts.first * 10, counts.second * 7) << filter;
  }
}

}  // namespace
}  // namespace quern
