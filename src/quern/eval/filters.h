// From a model's answers to the value that is scored: the filters of lm-evaluation-harness.
// Must never fail on an answer: what does not match becomes the filter's fallback.
// Proved by tests/eval/filters_test.cc (cases made by the harness's own filters).
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/task_file.h"

namespace quern {

// One filter of a task. Thread-safe.
class AnswerFilter {
 public:
  explicit AnswerFilter(const FilterSpec& spec);

  const std::string& name() const { return name_; }
  // `answers` are those of one question (one a repeat, not empty). The value is text, unless a map
  // gave something else. `doc` is the question's row (multi_choice_regex reads its "choices").
  Json apply(const std::vector<std::string>& answers, const Json& doc = Json::object()) const;

 private:
  struct Step {
    FilterStep spec;
    std::vector<PythonRegex> patterns;  // the step's own, then those to ignore
  };
  static Json apply_text(const Step& step, const Json& value, const Json& doc);

  std::string name_;
  std::vector<Step> steps_;
};

}  // namespace quern
