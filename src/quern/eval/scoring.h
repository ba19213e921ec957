// From an answer to its score: exact_match, the accuracies of likelihoods, and their aggregation.
// Must never parse numbers: the harness compares text.
// Proved by tests/eval/scoring_test.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/eval/filters.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/sample.h"
#include "quern/eval/task_file.h"

namespace quern {

// exact_match of the harness: both sides normalised alike, then compared as text. Thread-safe.
class ExactMatch {
 public:
  explicit ExactMatch(const ExactMatchOptions& options);

  std::string normalise(std::string_view text) const;
  double score(std::string_view prediction, std::string_view reference) const;

 private:
  ExactMatchOptions options_;
  std::vector<PythonRegex> ignored_;
};

// Filters and metrics of one task. Thread-safe.
class Scorer {
 public:
  explicit Scorer(const EvalTask& task);

  // Fills `filtered` and `scores` from the answers or likelihoods.
  void score(EvaluatedSample& sample) const;
  std::size_t filters() const { return filters_.size(); }

 private:
  std::vector<Json> score_answer(const Json& value, const EvaluatedSample& sample) const;
  std::vector<Json> score_likelihoods(const EvaluatedSample& sample) const;
  std::vector<Json> score_choices(const EvaluatedSample& sample) const;

  OutputType type_;
  std::vector<AnswerFilter> filters_;
  std::vector<MetricSpec> metrics_;
  std::vector<ExactMatch> matches_;  // one a metric
};

// Sum over count, in the order given. `scores` is not empty.
double mean(const std::vector<double>& scores);
// Sample standard deviation (n - 1) over sqrt(n); empty for fewer than two scores.
std::optional<double> mean_stderr(const std::vector<double>& scores);

// One metric over all questions, with its standard error.
struct Aggregate {
  Json value;
  std::optional<double> error;
};
Aggregate aggregate(MetricKind metric, const std::vector<Json>& scores);

}  // namespace quern
