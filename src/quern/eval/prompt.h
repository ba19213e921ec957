// Builds the messages of a question: system text, worked examples, the question.
// Must never add text of its own: every byte comes from the task file, the data or the options.
// Proved by tests/eval/prompt_test.cc (prompt hashes of GSM8K).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/fewshot.h"
#include "quern/eval/task_file.h"

namespace quern {

struct PromptOptions {
  std::size_t num_fewshot = 0;
  bool multiturn = true;  // examples as user and assistant turns, else all in one user message
  std::string system_instruction;
  std::int64_t fewshot_seed = 1234;
};

// Not thread-safe. The task and the pool must outlive it.
class PromptBuilder {
 public:
  PromptBuilder(const EvalTask& task, const std::vector<Json>& fewshot_pool, PromptOptions options);

  // The messages of the next row: [{"role", "content"}, ...]. Rows come in document order.
  Json next(const Json& row);

 private:
  const EvalTask& task_;
  const std::vector<Json>& pool_;
  PromptOptions options_;
  FewshotSampler sampler_;
  bool exclude_row_;  // questions and examples come from the same split
};

}  // namespace quern
