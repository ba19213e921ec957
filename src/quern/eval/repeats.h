// Several runs of the same evaluation: mean, spread, and how many answers stayed the same.
// Must never mix metrics of different tasks or filters.
// Proved by tests/eval/evaluator_test.cc (spread) and tests/apps/program_test.cc (greedy runs repeat
// exactly).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/evaluator.h"

namespace quern {

// Greedy answers of our own server do not depend on what else is in a batch, so greedy runs repeat
// exactly: all answers are equal and the spread is 0. A spread above 0 comes from sampling, or from
// a server whose answers depend on its load.
class RepeatedRuns {
 public:
  // `results` is the results file of the run; the same questions in each run.
  void add(const Evaluation& evaluation, const Json& results, std::int64_t seed);

  // By task: answers that are equal in all runs, and by metric the values, mean, stdev, min, max.
  Json json() const;
  std::string table() const;

 private:
  struct Task {
    std::map<std::string, std::vector<double>> values;  // "metric,filter" -> one a run
    std::vector<std::string> answers;                   // of the first run, a question each
    std::vector<bool> same;                             // so far in all runs
  };
  std::vector<std::int64_t> seeds_;
  std::map<std::string, Task> tasks_;
};

}  // namespace quern
