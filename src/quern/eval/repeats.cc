// See repeats.h.
#include "quern/eval/repeats.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/eval/markdown.h"
#include "quern/eval/scoring.h"

namespace quern {
namespace {

// All that a model said to one question, as one text.
std::string answer_text(const EvaluatedSample& sample) {
  Json all = sample.answers;
  for (const Loglikelihood& found : sample.likelihoods) all.push_back(found.value);
  return all.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Between runs: sample standard deviation; 0 for one run.
double deviation(const std::vector<double>& values) {
  const auto error = mean_stderr(values);
  return error ? *error * std::sqrt(static_cast<double>(values.size())) : 0.0;
}

}  // namespace

void RepeatedRuns::add(const Evaluation& evaluation, const Json& results, std::int64_t seed) {
  const bool first = seeds_.empty();
  seeds_.push_back(seed);
  for (const EvaluatedTask& run : evaluation.tasks) {
    Task& task = tasks_[run.task.name];
    for (const auto& [key, value] : results.at("results").at(run.task.name).items()) {
      const bool is_metric = key.find(',') != std::string::npos &&
                             key.find("_stderr,") == std::string::npos && value.is_number();
      if (is_metric) task.values[key].push_back(value.get<double>());
    }
    QUERN_CHECK(first || task.answers.size() == run.samples.size());
    for (std::size_t i = 0; i < run.samples.size(); ++i) {
      std::string answer = answer_text(run.samples[i]);
      if (first) {
        task.answers.push_back(std::move(answer));
        task.same.push_back(true);
      } else if (answer != task.answers[i]) {
        task.same[i] = false;
      }
    }
  }
}

Json RepeatedRuns::json() const {
  Json out{{"runs", seeds_.size()}, {"seeds", seeds_}, {"tasks", Json::object()}};
  for (const auto& [name, task] : tasks_) {
    Json entry{{"questions", task.answers.size()},
               {"equal_answers", std::count(task.same.begin(), task.same.end(), true)},
               {"metrics", Json::object()}};
    for (const auto& [metric, values] : task.values) {
      entry["metrics"][metric] = {{"values", values},
                                  {"mean", mean(values)},
                                  {"stdev", deviation(values)},
                                  {"min", *std::min_element(values.begin(), values.end())},
                                  {"max", *std::max_element(values.begin(), values.end())}};
    }
    out["tasks"][name] = std::move(entry);
  }
  return out;
}

std::string RepeatedRuns::table() const {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, task] : tasks_) {
    for (const auto& [metric, values] : task.values) {
      rows.push_back({name, metric, std::to_string(values.size()),
                      fmt::format("{:.4f}", mean(values)), fmt::format("{:.4f}", deviation(values)),
                      fmt::format("{:.4f}", *std::min_element(values.begin(), values.end())),
                      fmt::format("{:.4f}", *std::max_element(values.begin(), values.end())),
                      fmt::format("{} of {}", std::count(task.same.begin(), task.same.end(), true),
                                  task.answers.size())});
    }
  }
  return markdown_table({"Task", "Metric", "Runs", "Mean", "Stdev", "Min", "Max", "Equal answers"},
                        rows);
}

}  // namespace quern
