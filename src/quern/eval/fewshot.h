// Chooses the worked examples in front of each question, as the harness's samplers do.
// Must never be asked out of document order: one random stream is consumed question by question.
// Proved by tests/eval/prompt_test.cc (hash of all picks of GSM8K).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/python_random.h"
#include "quern/eval/task_file.h"

namespace quern {

// Not thread-safe. `pool` must outlive the sampler.
class FewshotSampler {
 public:
  FewshotSampler(FewshotKind kind, const std::vector<Json>& pool, std::int64_t seed);

  // Indices into the pool of the `count` examples of the next question, in their order. `exclude`
  // is the question itself when it comes from the pool's split, else null: then one more is drawn
  // and those equal to it are dropped (random choice only, as in the harness).
  std::vector<std::size_t> next(std::size_t count, const Json* exclude);

 private:
  FewshotKind kind_;
  const std::vector<Json>& pool_;
  PythonRandom random_;
};

}  // namespace quern
