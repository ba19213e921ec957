// Filters, exact_match and aggregation of the gsm8k task: values computed by the harness's
// functions.
#include "quern/eval/scoring.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/base/error.h"

namespace quern {
namespace {

struct Row {
  const char* answer;
  const char* gold;
  const char* strict;
  double strict_score;
  const char* flexible;
  double flexible_score;
};

constexpr const char* kNone = "[invalid]";
constexpr Row kRows[] = {
    {"She makes 9 * 2 = $18 every day.\n#### 18", "18", "18", 1, "18", 1},
    {"The answer is **18**.", "18", kNone, 0, "18", 1},
    {"The answer is $18.", "18", kNone, 0, "$18.", 1},
    {"She makes $18.00 per day.", "18", kNone, 0, "$18.00", 0},
    {"$$9 \\times 2 = 18$$", "18", kNone, 0, "18$$", 1},
    {"Total: 1,050 grams", "1,050", kNone, 0, "1,050", 1},
    {"#### 1,050.", "1,050", "1,050.", 1, "1,050.", 1},
    {"#### 18 dollars, i.e. 9 eggs at $2 each", "18", "18", 1, "$2", 0},
    {"#### $18", "18", kNone, 0, "$18", 1},
    {"Eighteen dollars.", "18", kNone, 0, kNone, 0},
    {"", "18", kNone, 0, kNone, 0},
    {"The answer is 18...", "18", kNone, 0, "18...", 0},
    {"Between 10-18", "18", kNone, 0, "-18", 0},
    {"The loss is -10 dollars", "-10", kNone, 0, "-10", 1},
    {"- 10", "-10", kNone, 0, "10", 0},
    {"\u221210", "-10", kNone, 0, "10", 0},
    {"####18", "18", kNone, 0, "18", 1},
    {"####  18", "18", kNone, 0, "18", 1},
    {"##### 18", "18", "18", 1, "18", 1},
    {"#### 18\n#### 19", "18", "18", 1, "19", 0},
    {"#### 18.0", "18", "18.0", 0, "18.0", 0},
    {"The answer is 18 (see step 3)", "18", kNone, 0, "3", 0},
    {"so 18 .. ok", "18", kNone, 0, "..", 0},
    {"5.", "5", kNone, 0, "5.", 1},
    {"answer: 5, thanks $.", "5", kNone, 0, "$.", 0},
    {"\uff11\uff18", "18", kNone, 0, kNone, 0},
    {"1 050", "1,050", kNone, 0, "050", 0},
    {"#### 1,,050", "1,050", "1,,050", 1, "1,,050", 1},
    {"#### -$18", "-18", kNone, 0, "-$18", 1},
    {"18%", "18", kNone, 0, "18", 1},
    {"2/3", "3", kNone, 0, "3", 1},
    {"12:30", "30", kNone, 0, "30", 1},
};

TEST(Scoring, WorkedExamplesOfGsm8k) {
  const EvalTask task = load_task("gsm8k", {});
  const AnswerFilter strict(task.filters.at(0));
  const AnswerFilter flexible(task.filters.at(1));
  const ExactMatch metric(task.metrics.at(0).exact_match);
  EXPECT_EQ(strict.name(), "strict-match");
  EXPECT_EQ(flexible.name(), "flexible-extract");
  for (const Row& row : kRows) {
    const std::string reference = std::string("Work, 3 = $3.\n#### 7 is not it\n#### ") + row.gold;
    EXPECT_EQ(strict.apply({row.answer}), row.strict) << row.answer;
    EXPECT_EQ(flexible.apply({row.answer}), row.flexible) << row.answer;
    EXPECT_EQ(metric.score(row.strict, reference), row.strict_score) << row.answer;
    EXPECT_EQ(metric.score(row.flexible, reference), row.flexible_score) << row.answer;
  }
}

TEST(Scoring, MeanAndStandardError) {
  const struct {
    int right;
    double value, error;
  } rows[] = {{1238, 0.9385898407884761, 0.006613027536586},
              {1239, 0.9393479909021987, 0.006574733381406},
              {1242, 0.9416224412433661, 0.006458083557833},
              {1243, 0.9423805913570887, 0.006418593319823},
              {1257, 0.9529946929492039, 0.005829898355937}};
  for (const auto& row : rows) {
    std::vector<double> scores(1319, 0.0);
    for (int i = 0; i < row.right; ++i) scores[static_cast<std::size_t>((i * 7) % 1319)] = 1.0;
    EXPECT_DOUBLE_EQ(mean(scores), row.value);
    EXPECT_NEAR(*mean_stderr(scores), row.error, 1e-14);
  }
  EXPECT_FALSE(mean_stderr({1.0}));
}

TEST(PythonRegex, FindAllAndRemove) {
  using Matches = std::vector<std::vector<std::string>>;
  EXPECT_EQ(PythonRegex("x*").find_all("axb"),
            (Matches{{""}, {"x"}, {""}, {""}}));  // re.findall of 3.7+
  EXPECT_EQ(PythonRegex("(a)|(b)").find_all("ab"), (Matches{{"a", ""}, {"", "b"}}));
  EXPECT_EQ(PythonRegex("\\.$").remove_all("1.\n"), "1\n");
  EXPECT_EQ(PythonRegex("\\.\\Z").remove_all("1.\n"), "1.\n");  // the very end in Python
  EXPECT_EQ(PythonRegex("\\.\\Z").remove_all("1."), "1");
  EXPECT_EQ(PythonRegex("\\\\Z").remove_all("a\\Z"), "a");
  EXPECT_EQ(PythonRegex("(?s).*#### ").remove_all("a\n#### b #### c"), "c");
  EXPECT_EQ(PythonRegex("é").remove_all("héé!"), "h!");
  EXPECT_EQ(PythonRegex("a\\Z").remove_all("a\n"), "a\n");  // \Z: the very end, as in Python
  EXPECT_EQ(PythonRegex("a\\Z").remove_all("a"), "");
  EXPECT_EQ(PythonRegex("\\\\Z").remove_all("\\Z"), "");
  EXPECT_THROW(PythonRegex("(a"), Error);
  EXPECT_THROW(PythonRegex("(a+)+$").find_all(std::string(40, 'a') + "b"),
               Error);  // the match limit
}

}  // namespace
}  // namespace quern
