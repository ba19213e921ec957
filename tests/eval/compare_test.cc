// Two runs on disk side by side: pairing, intervals, hostile files, escaping.
#include "quern/eval/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/compare_report.h"
#include "quern/eval/python_text.h"
#include "quern/eval/recovery.h"
#include "quern/eval/scoring.h"

namespace quern {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kDate = "2026-08-21T19-56-54.123456";

struct Answer {
  std::string text;
  double score;
};

// A folder that is removed at the end.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "compareXXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw Error("mkdtemp failed");
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

std::string sample_text(std::size_t id, const Answer& answer, const std::string& question) {
  const Json messages =
      Json::array({{{"role", "user"}, {"content", "Question: " + question + "\nAnswer:"}}});
  return python_json(Json{
             {"doc_id", id},
             {"doc", {{"question", question}}},
             {"target", "#### 18"},
             {"arguments", {{"gen_args_0", {{"arg_0", Json::array({python_json(messages)})}}}}},
             {"resps", Json::array({Json::array({answer.text})})},
             {"filtered_resps", Json::array({answer.text})},
             {"filter", "none"},
             {"metrics", Json::array({"exact_match"})},
             {"doc_hash", fmt::format("hash {}", question)},
             {"exact_match", answer.score}}) +
         "\n";
}

std::filesystem::path write_run(const Folder& folder, const std::string& name,
                                const std::vector<Answer>& answers,
                                const std::string& question = "How many <b>eggs</b>") {
  std::string samples;
  double sum = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    samples += sample_text(i, answers[i], fmt::format("{} {}?", question, i));
    sum += answers[i].score;
  }
  folder.write(fmt::format("{}/samples_eggs_{}.jsonl", name, kDate), samples);
  const double value = sum / static_cast<double>(answers.size());
  const Json results{
      {"results",
       {{"eggs",
         {{"alias", "eggs"}, {"exact_match,none", value}, {"exact_match_stderr,none", 0.1}}}}},
      {"model_name", name}};
  return folder.write(fmt::format("{}/results_{}.json", name, kDate), results.dump());
}

// Right, lost, won, wrong.
const std::vector<Answer> kBase{
    {"18", 1}, {"18 </pre><script>alert(1)</script>", 1}, {"17", 0}, {"```", 0}};
const std::vector<Answer> kQuantized{{"18", 1}, {"17 & less", 0}, {"18", 1}, {"", 0}};

TEST(Compare, PairsQuestionsAndKeepsBothAnswers) {
  const Folder folder;
  const EvaluationRun base = read_run(write_run(folder, "base", kBase));
  const EvaluationRun quantized =
      read_run(write_run(folder, "quantized", kQuantized).parent_path());
  const Comparison comparison = compare_runs(base, quantized);
  ASSERT_EQ(comparison.scores.size(), 1U);
  const ComparedScore& score = comparison.scores[0];
  EXPECT_TRUE(score.paired);
  EXPECT_EQ(score.counts->both_right, 1U);
  EXPECT_EQ(score.counts->only_base, 1U);
  EXPECT_EQ(score.counts->only_quantized, 1U);
  EXPECT_EQ(score.counts->both_wrong, 1U);
  EXPECT_EQ(score.recovery, 1.0);
  ASSERT_EQ(score.questions.size(), 4U);
  EXPECT_EQ(score.questions[1].quantized.answer, "17 & less");
  EXPECT_EQ(score.questions[1].base.question, "Question: How many <b>eggs</b> 1?\nAnswer:");
  const Json json = comparison_json(comparison);
  EXPECT_EQ(json[0]["lost"], Json::array({1}));
  EXPECT_EQ(json[0]["won"], Json::array({2}));
  EXPECT_EQ(json[0]["mcnemar_p"], 1.0);
}

// A samples file alone gives the same scores as the results file beside it.
TEST(Compare, SamplesFilesAlone) {
  const Folder folder;
  write_run(folder, "base", kBase);
  write_run(folder, "quantized", kQuantized);
  const auto samples = [&](const char* name) {
    return read_run(folder.path() / name / fmt::format("samples_eggs_{}.jsonl", kDate));
  };
  const Comparison comparison = compare_runs(samples("base"), samples("quantized"));
  ASSERT_EQ(comparison.scores.size(), 1U);
  EXPECT_EQ(comparison.scores[0].task, "eggs");
  EXPECT_EQ(comparison.scores[0].base.value, 0.5);
  // Of four 0/1 scores with mean 1/2: sqrt(4 * 1/4 / 3) / sqrt(4).
  EXPECT_NEAR(*comparison.scores[0].base.stderr_of_mean, std::sqrt(1.0 / 3.0) / 2, 1e-15);
  EXPECT_TRUE(comparison.scores[0].paired);
}

TEST(Compare, OtherQuestionsAreNotPaired) {
  const Folder folder;
  const EvaluationRun base = read_run(write_run(folder, "base", kBase));
  const EvaluationRun other = read_run(write_run(folder, "other", kQuantized, "Other"));
  const Comparison comparison = compare_runs(base, other);
  EXPECT_FALSE(comparison.scores[0].paired);
  EXPECT_THAT(comparison.scores[0].unpaired_reason, HasSubstr("document 0 differs"));
  EXPECT_TRUE(comparison.scores[0].questions.empty());
  EXPECT_TRUE(comparison.scores[0].interval);
}

TEST(Compare, EverythingIsEscaped) {
  const Folder folder;
  const Comparison comparison = compare_runs(read_run(write_run(folder, "base", kBase)),
                                             read_run(write_run(folder, "<i>q", kQuantized)));
  const std::string html = comparison_html(comparison);
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<b>eggs")));
  EXPECT_THAT(html, Not(HasSubstr("<i>q")));
  EXPECT_THAT(html, HasSubstr("18 &lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(html, HasSubstr("17 &amp; less"));
  for (const char* outside : {"http:", "https:", "src=", "url("})
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  const std::string markdown = comparison_markdown(comparison);
  EXPECT_THAT(markdown, HasSubstr("#### Document 1"));
  EXPECT_THAT(markdown, HasSubstr("#### Document 2"));
  EXPECT_THAT(markdown, Not(HasSubstr("#### Document 0")));
  EXPECT_THAT(markdown, Not(HasSubstr("#### Document 3")));
}

TEST(Compare, HostileFiles) {
  const Folder folder;
  const std::string good = sample_text(0, {"18", 1}, "q");
  const auto with = [&](const char* from, const char* to) {
    std::string text = good;
    const auto at = text.find(from);
    return text.replace(at, std::string(from).size(), to);
  };
  const struct {
    std::string text;
    const char* message;
  } cases[] = {
      {"[1]\n", "expected a JSON object"},
      {"{\"doc_id\": 0", "samples_t"},
      {with("\"doc_id\": 0", "\"doc_id\": \"x\""), "'doc_id' must be an integer"},
      {with("\"filter\": \"none\"", "\"filter\": 3"), "'filter' must be text"},
      {with("\"doc_hash\"", "\"doc_hush\""), "has no 'doc_hash'"},
      {with("\"exact_match\": 1.0", "\"exact_match\": \"one\""), "'exact_match' must be a number"},
      {with("\"metrics\": [\"exact_match\"]", "\"metrics\": [\"acc\"]"), "has no 'acc'"},
      {with("\"metrics\": [\"exact_match\"]", "\"metrics\": 7"), "no sample names a metric"},
      {good + good, "occurs twice"},
      {"", "no sample names a metric"},
  };
  for (const auto& c : cases) {
    const auto file = folder.write(fmt::format("samples_t_{}.jsonl", kDate), c.text);
    try {
      read_run(file);
      ADD_FAILURE() << "accepted: " << c.text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(c.message));
      EXPECT_THAT(error.what(), HasSubstr("samples_t"));
    }
  }
  for (const char* text : {"{}", "[]", "{\"results\": 3}", "{\"results\": {\"t\": 3}}", "x"}) {
    EXPECT_THROW(read_run(folder.write("results_x.json", text)), Error) << text;
  }
  EXPECT_THROW(read_run(folder.path() / "none.json"), Error);
}

// Any fields missing besides the required ones: shown as what there is, never a crash.
TEST(Compare, StrangeSamplesAreShownAsTheyAre) {
  const Folder folder;
  const std::string line =
      R"({"doc_id": 5, "doc": [1], "filter": "f", "doc_hash": "h", "metrics": ["acc"], "acc": true,)"
      R"( "resps": [[["-1.5", "False"]], [["-2.5", "True"]]], "filtered_resps": [["-1.5", "False"]],)"
      R"( "target": 1, "arguments": {"gen_args_0": {"arg_0": "[not messages"}}})";
  const EvaluationRun run =
      read_run(folder.write("samples_t_" + std::string(kDate) + ".jsonl", line));
  const RunSample& sample = run.scores.at(0).samples.at(5);
  EXPECT_EQ(sample.score, 1.0);
  EXPECT_EQ(sample.question, "[not messages");
  EXPECT_EQ(sample.answer, R"([[["-1.5", "False"]], [["-2.5", "True"]]])");
  EXPECT_EQ(sample.extracted, R"(["-1.5", "False"])");
  EXPECT_EQ(sample.target, "1");
}

// With n questions, only_base b and only_quantized c the difference has variance
// ((b + c) - (b - c)^2 / n) / n^2; the percentile interval is close to +-1.96 of its root. Rounded
// to whole questions and with 10,000 resamples the ends may be off by a question and by the
// quantile's own error: sqrt(.025 * .975 / 10000) / density(0.025) = 0.0016 / 0.058 = 0.027 sigma.
TEST(Bootstrap, AgreesWithTheNormalApproximation) {
  const std::size_t n = 1319;
  std::vector<double> base(n, 1);
  std::vector<double> quantized(n, 1);
  for (std::size_t i = 0; i < 40; ++i) quantized[i] = 0;
  for (std::size_t i = 40; i < 60; ++i) base[i] = 0;
  const auto found = paired_bootstrap(base, quantized);
  ASSERT_TRUE(found);
  const double sigma = std::sqrt(60 - 20.0 * 20.0 / n) / n;
  const double tolerance = 1.0 / n + 3 * 0.027 * sigma;
  EXPECT_NEAR(found->difference.low, -20.0 / n - 1.96 * sigma, tolerance);
  EXPECT_NEAR(found->difference.high, -20.0 / n + 1.96 * sigma, tolerance);
  const auto closed = paired_recovery_interval(PairedCounts{n - 60, 40, 20, 0});
  EXPECT_NEAR(found->recovery->low, closed->low, 2 * tolerance);
  EXPECT_NEAR(found->recovery->high, closed->high, 2 * tolerance);
}

// scipy's percentile bootstrap in 6 runs of as many resamples, and its binomial test. One run of
// ours against the mean of 6 has sqrt(7 / 6) of one run's spread: 4 of those, and the step of one
// question, below which a spread cannot be seen.
TEST(Bootstrap, EqualsScipy) {
  const std::string file = QUERN_SOURCE_DIR "/tests/golden/eval/paired_bootstrap.json";
  const Json golden = parse_json(read_file(file, 1 << 20), file);
  ASSERT_GE(golden.size(), 5U);
  for (const Json& row : golden) {
    const auto base = row["base"].get<std::vector<double>>();
    const auto quantized = row["quantized"].get<std::vector<double>>();
    const auto found = paired_bootstrap(base, quantized);
    ASSERT_TRUE(found && found->recovery);
    const double question = 1.0 / static_cast<double>(base.size());
    const auto check = [&](const char* name, const Interval& interval, double step) {
      const double ends[] = {interval.low, interval.high};
      for (std::size_t end = 0; end < 2; ++end) {
        const double spread = row[name]["spread"][end].get<double>();
        EXPECT_NEAR(ends[end], row[name]["ends"][end].get<double>(), 4 * 1.08 * spread + step)
            << name << " " << end << " of " << base.size();
      }
    };
    check("difference", found->difference, question);
    check("recovery", *found->recovery, question / mean(base));
    EXPECT_NEAR(mcnemar_p_value(*paired_counts(base, quantized)), row["mcnemar_p"].get<double>(),
                1e-10);
  }
}

TEST(Bootstrap, EdgeCases) {
  EXPECT_FALSE(paired_bootstrap({}, {}));
  EXPECT_FALSE(paired_bootstrap({1}, {1}));
  const auto equal = paired_bootstrap({1, 0, 1}, {1, 0, 1}, 100);
  EXPECT_EQ(equal->difference.low, 0);
  EXPECT_EQ(equal->difference.high, 0);
  const auto none_right = paired_bootstrap({0, 0}, {1, 1}, 100);
  EXPECT_EQ(none_right->difference.low, 1);
  EXPECT_FALSE(none_right->recovery);
}

TEST(Quantile, AsNumPy) {
  // numpy.quantile([3, 1, 4, 1, 5], q)
  const struct {
    double share, value;
  } rows[] = {{0, 1}, {0.1, 1}, {0.25, 1}, {0.5, 3}, {0.6, 3.4}, {0.9, 4.6}, {1, 5}};
  for (const auto& row : rows) {
    std::vector<double> values{3, 1, 4, 1, 5};
    EXPECT_NEAR(quantile(values, row.share), row.value, 1e-12) << row.share;
  }
}

}  // namespace
}  // namespace quern
