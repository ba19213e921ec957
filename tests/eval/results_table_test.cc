// Console tables: expected text printed by lm-evaluation-harness 0.4.12 (lm_eval.utils.make_table).
#include "quern/eval/results_table.h"

#include <gtest/gtest.h>

#include "quern/base/file.h"
#include "quern/eval/markdown.h"
#include "quern/eval/report.h"

namespace quern {
namespace {

struct Cell {
  double value;
  Json error;
};

Json results(const std::string& task, const Json& version, int shots, const Cell& flexible,
             const Cell& strict) {
  return Json{{"results",
               {{task,
                 {{"alias", task},
                  {"exact_match,strict-match", strict.value},
                  {"exact_match_stderr,strict-match", strict.error},
                  {"exact_match,flexible-extract", flexible.value},
                  {"exact_match_stderr,flexible-extract", flexible.error}}}}},
              {"versions", {{task, version}}},
              {"n-shot", {{task, shots}}},
              {"higher_is_better", {{task, {{"exact_match", true}}}}}};
}

TEST(ResultsTable, EqualsTheHarness) {
  EXPECT_EQ(results_table(results("gsm8k", 3.0, 5, {.9386, .0066}, {.9393, .0066})),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|-----:|---|-----:|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|↑  |0.9386|±  |0.0066|\n"
            "|     |       |strict-match    |     5|exact_match|↑  |0.9393|±  |0.0066|\n");
  EXPECT_EQ(results_table(results("gsm8k", 3.0, 5, {.938, .0066}, {.908, .006})),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|----:|---|-----:|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|↑  |0.938|±  |0.0066|\n"
            "|     |       |strict-match    |     5|exact_match|↑  |0.908|±  |0.0060|\n");
  EXPECT_EQ(results_table(results("gsm8k", 3.0, 5, {1.0, 0.0}, {.9081, .006})),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|-----:|---|-----:|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|↑  |1.0000|±  | 0.000|\n"
            "|     |       |strict-match    |     5|exact_match|↑  |0.9081|±  | 0.006|\n");
  EXPECT_EQ(results_table(results("gsm8k", 3.0, 5, {1.0, "N/A"}, {0.0, "N/A"})),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|\n"
            "|-----|------:|----------------|-----:|-----------|---|----:|---|------|\n"
            "|gsm8k|      3|flexible-extract|     5|exact_match|↑  |    1|±  |   N/A|\n"
            "|     |       |strict-match    |     5|exact_match|↑  |    0|±  |   N/A|\n");
  EXPECT_EQ(results_table(results("arith", "1.0.1", 0, {.123456, .1}, {.25, .02})),
            "|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|\n"
            "|-----|-------|----------------|-----:|-----------|---|-----:|---|-----:|\n"
            "|arith|1.0.1  |flexible-extract|     0|exact_match|↑  |0.1235|±  |  0.10|\n"
            "|     |       |strict-match    |     0|exact_match|↑  |0.2500|±  |  0.02|\n");
}

TEST(ResultsTable, RandomOnesEqualTheHarness) {
  const std::string file = QUERN_SOURCE_DIR "/tests/golden/eval/tables.json";
  const Json golden = parse_json(read_file(file, 1 << 20), file);
  ASSERT_GE(golden.size(), 60U);
  for (const Json& row : golden) EXPECT_EQ(results_table(row["results"]), row["table"]);
}

TEST(Markdown, AFenceCannotBeClosedByItsText) {
  EXPECT_EQ(markdown_fence("a"), "```\na\n```\n");
  EXPECT_EQ(markdown_fence("```` ``` `", "sh"), "`````sh\n```` ``` `\n`````\n");
}

TEST(Report, ConsoleLineAndNames) {
  ReportSettings settings;
  settings.model_source = "local-chat-completions";
  settings.model_args = {{"model", "/mnt/amd/MiniMax-M3-MXFP4"},
                         {"base_url", "http://127.0.0.1:8000/v1/chat/completions"},
                         {"num_concurrent", 32},
                         {"max_gen_toks", 16384}};
  settings.batch_size = "1";
  settings.num_fewshot = 5;
  EXPECT_EQ(
      console_line(settings),
      "local-chat-completions ({'model': '/mnt/amd/MiniMax-M3-MXFP4', 'base_url': "
      "'http://127.0.0.1:8000/v1/chat/completions', 'num_concurrent': 32, 'max_gen_toks': 16384}), "
      "gen_kwargs: ({}), limit: None, num_fewshot: 5, batch_size: 1");
  EXPECT_EQ(sanitize_model_name(model_name_of(settings.model_args)),
            "__mnt__amd__MiniMax-M3-MXFP4");
  EXPECT_EQ(sanitize_model_name("a//b:<c>"), "a__b__c__");
}

}  // namespace
}  // namespace quern
