// From an answer to its score: filters (extraction), exact_match, mean and standard error.
// Must never parse numbers: the harness compares text.
// Proved by tests/eval/scoring_test.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/eval/python_regex.h"
#include "quern/eval/task_file.h"

namespace quern {

// One filter of a task: its regex steps, one after the other. Thread-safe.
class AnswerFilter {
 public:
  explicit AnswerFilter(const FilterSpec& spec);

  const std::string& name() const { return name_; }
  std::string apply(std::string answer) const;

 private:
  struct Step {
    PythonRegex regex;
    std::int64_t group_select;
    std::string fallback;
  };
  static std::string apply_step(const Step& step, const std::string& answer);

  std::string name_;
  std::vector<Step> steps_;
};

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

// Sum over count, in the order given. `scores` is not empty.
double mean(const std::vector<double>& scores);
// Sample standard deviation (n - 1) over sqrt(n); empty for fewer than two scores.
std::optional<double> mean_stderr(const std::vector<double>& scores);

}  // namespace quern
