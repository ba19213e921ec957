// A whole run with scripted backends: order, concurrency, resuming, failures, files, comparison.
#include "quern/eval/evaluator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/compare.h"
#include "quern/eval/compare_report.h"
#include "quern/eval/dataset.h"
#include "quern/eval/python_text.h"
#include "quern/eval/repeats.h"
#include "quern/eval/report.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

// Answers each arith question rightly but those that `wrong` names by number (from 0); counts
// calls.
class Scripted : public ChatBackend {
 public:
  explicit Scripted(
      std::string id, std::function<bool(int)> wrong = [](int) { return false; })
      : id_(std::move(id)), wrong_(std::move(wrong)) {
    const EvalTask task = load_task("arith", {});
    int n = 0;
    for (const Json& row : read_jsonl(find_split(task, "test", ""))) {
      rows_["Question: " + row["question"].get<std::string>() + "\nAnswer:"] = {n++, row["answer"]};
    }
  }
  Json identity() override { return id_; }
  std::optional<std::string> complete(const Json& request) override {
    const int call = ++calls;
    if (fail_at > 0 && call >= fail_at) throw Error("server died");
    const auto& [number, text] = rows_.at(request["messages"].back()["content"].get<std::string>());
    if (number % 11 == 5)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // out of order
    if (number == null_at) return std::nullopt;
    return wrong_(number) ? "#### 999999" : text;
  }

  std::atomic<int> calls{0};
  int fail_at = 0;
  int null_at = -1;

 private:
  std::string id_;
  std::function<bool(int)> wrong_;
  std::map<std::string, std::pair<int, std::string>> rows_;
};

EvaluationOptions options_of(std::size_t threads, double limit) {
  EvaluationOptions options;
  options.model.model = "m";
  options.model.num_concurrent = threads;
  options.limit = limit;
  options.show_progress = false;
  return options;
}

Evaluation run(Scripted& backend, const EvaluationOptions& options) {
  std::vector<EvalTask> tasks;
  tasks.push_back(load_task("arith", {}));
  return evaluate(std::move(tasks), options, backend);
}

ReportSettings settings_of() {
  ReportSettings settings;
  settings.model_source = "local-chat-completions";
  settings.model_args = {{"model", "m"}};
  settings.seeds = {0, 1234, 1234, 1234};
  settings.log_samples = true;
  return settings;
}

TEST(Evaluator, AnswersLandAtTheirQuestion) {
  Scripted backend("a", [](int n) { return n % 4 == 1; });
  backend.null_at = 8;
  const Evaluation evaluation = run(backend, options_of(8, 100));
  EXPECT_EQ(backend.calls, 100);
  EXPECT_EQ(evaluation.null_answers, 1U);
  ASSERT_EQ(evaluation.tasks[0].samples.size(), 100U);
  EXPECT_EQ(evaluation.tasks[0].original_rows, 500U);
  for (const EvaluatedSample& sample : evaluation.tasks[0].samples) {
    const double expected = sample.doc_id % 4 == 1 || sample.doc_id == 8 ? 0.0 : 1.0;
    EXPECT_EQ(sample.scores, (std::vector<std::vector<Json>>{{expected}, {expected}}))
        << sample.doc_id;
  }
  const Json results = results_json(evaluation, settings_of());
  EXPECT_EQ(results["results"]["arith"]["exact_match,strict-match"], 0.74);
  EXPECT_EQ(results["n-samples"]["arith"].dump(), R"({"original":500,"effective":100})");
}

TEST(Evaluator, ResumesFromTheCacheAndNeverMixesModels) {
  const test::TempDirectory folder;
  const auto file = folder / "deep" / "cache.jsonl";
  EvaluationOptions options = options_of(4, 40);
  options.cache_file = file;
  Scripted dying("a");
  dying.fail_at = 21;
  EXPECT_THROW(run(dying, options), Error);
  // A torn last line, and one that is no answer.
  std::string text = read_file(file, 1 << 20);
  write_file(file, "{}\n" + text + "{\"key\": \"ab");

  Scripted again("a");
  again.null_at = 39;
  const Evaluation resumed = run(again, options);
  EXPECT_EQ(again.calls, 20);
  EXPECT_EQ(resumed.cached_answers, 20U);
  Scripted third("a");
  EXPECT_EQ(run(third, options).null_answers, 1U);  // null answers are answers
  EXPECT_EQ(third.calls, 0);
  Scripted other("b");
  run(other, options);
  EXPECT_EQ(other.calls, 40);
  options.model.max_gen_toks = 7;
  Scripted longer("a");
  run(longer, options);
  EXPECT_EQ(longer.calls, 40);
  options.gen_kwargs = {{"do_sample", true}};
  Scripted sampled("a");
  run(sampled, options);
  EXPECT_EQ(sampled.calls, 40);
}

TEST(Evaluator, EachRepeatHasAnAnswerOfItsOwnInTheCache) {
  const test::TempDirectory folder;
  EvaluationOptions options = options_of(1, 4);
  options.cache_file = folder / "cache.jsonl";
  const auto calls_of = [&](std::size_t repeats) {
    Scripted backend("a");
    std::vector<EvalTask> tasks;
    tasks.push_back(load_task("arith", {}));
    tasks.front().repeats = repeats;
    evaluate(std::move(tasks), options, backend);
    return backend.calls.load();
  };
  EXPECT_EQ(calls_of(3), 12);
  EXPECT_EQ(calls_of(3), 0);
  EXPECT_EQ(calls_of(1), 0) << "the first repeat is the request itself";
  EXPECT_EQ(calls_of(5), 8);
}

TEST(Evaluator, AFailureNamesTheDocument) {
  Scripted backend("a");
  backend.fail_at = 3;
  try {
    run(backend, options_of(1, 10));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("arith document 2: server died"));
  }
}

// Runs that get 2, 3 and 4 of 20 questions wrong, always question 0: sample deviation of 0.90, 0.85
// and 0.80 is 0.05.
TEST(Repeats, MeanSpreadAndEqualAnswers) {
  RepeatedRuns repeated;
  EvaluationOptions options = options_of(2, 20);
  for (int seed = 0; seed < 3; ++seed) {
    Scripted backend("a", [&](int n) { return n < 2 + seed; });
    options.model.seed = seed;
    const Evaluation evaluation = run(backend, options);
    repeated.add(evaluation, results_json(evaluation, settings_of()), seed);
  }
  const Json found = repeated.json();
  EXPECT_EQ(found["seeds"].dump(), "[0,1,2]");
  const Json& arith = found["tasks"]["arith"];
  EXPECT_EQ(arith["questions"], 20);
  EXPECT_EQ(arith["equal_answers"], 18);
  const Json& metric = arith["metrics"]["exact_match,strict-match"];
  EXPECT_EQ(metric["values"].dump(), "[0.9,0.85,0.8]");
  EXPECT_NEAR(metric["mean"].get<double>(), 0.85, 1e-12);
  EXPECT_NEAR(metric["stdev"].get<double>(), 0.05, 1e-12);
  EXPECT_EQ(metric["min"], 0.8);
  EXPECT_EQ(metric["max"], 0.9);
  EXPECT_THAT(repeated.table(), testing::HasSubstr("18 of 20"));
}

TEST(Compare, PairsQuestionByQuestion) {
  const test::TempDirectory folder;
  Scripted base("a", [](int n) { return n < 10; });                            // 90 of 100
  Scripted quantized("b", [](int n) { return n < 8 || (n > 49 && n < 57); });  // 85 of 100
  const Evaluation a = run(base, options_of(3, 100));
  const Evaluation b = run(quantized, options_of(3, 100));
  const SavedFiles saved_a =
      save_results(a, settings_of(), results_json(a, settings_of()), folder / "a");
  const SavedFiles saved_b =
      save_results(b, settings_of(), results_json(b, settings_of()), folder / "b");
  EXPECT_EQ(find_results_file(folder / "a"), saved_a.results);

  const Comparison comparison = compare_runs(read_run(saved_a.results), read_run(saved_b.results));
  const auto& scores = comparison.scores;
  ASSERT_EQ(scores.size(), 2U);
  ASSERT_TRUE(scores[0].counts);
  EXPECT_EQ(scores[0].counts->both_right, 83U);
  EXPECT_EQ(scores[0].counts->only_base, 7U);
  EXPECT_EQ(scores[0].counts->only_quantized, 2U);
  EXPECT_EQ(scores[0].counts->both_wrong, 8U);
  EXPECT_DOUBLE_EQ(*scores[0].recovery, 0.85 / 0.9);
  EXPECT_LT(scores[0].interval->low, 0.85 / 0.9);
  EXPECT_GT(scores[0].interval->high, 0.85 / 0.9);
  EXPECT_EQ(scores[0].questions[7].base.answer, "#### 999999");
  const std::string table = comparison_table(comparison);
  EXPECT_THAT(table, testing::HasSubstr("|arith|strict-match    |    90|         85|        -5|"));
  EXPECT_THAT(table, testing::HasSubstr("|     94.44|"));
  EXPECT_EQ(comparison_json(comparison)[0]["only_base"], 7);

  // Without samples, or with other questions, the comparison says that it is unpaired.
  std::filesystem::remove(saved_b.samples[0]);
  const Comparison unpaired = compare_runs(read_run(saved_a.results), read_run(saved_b.results));
  EXPECT_FALSE(unpaired.scores[0].paired);
  EXPECT_THAT(comparison_table(unpaired),
              testing::HasSubstr("unpaired, no samples of the quantized model"));
  EXPECT_GT(unpaired.scores[0].interval->high - unpaired.scores[0].interval->low,
            scores[0].interval->high - scores[0].interval->low);
  EXPECT_THROW(find_results_file(folder.path()), Error);
}

}  // namespace
}  // namespace quern
