// Builds the prompt of a question: system text, worked examples, the question; as messages or text.
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
  bool chat = true;       // messages, else one text
  bool multiturn = true;  // examples as user and assistant turns, else all in one user message
  std::string system_instruction;
  std::int64_t fewshot_seed = 1234;
  // A row's question is one of its choices (doc_to_text gives the index of the right one), in
  // examples the right one.
  bool choices_are_questions = false;
};

// Not thread-safe. The task and the pool must outlive it.
class PromptBuilder {
 public:
  PromptBuilder(const EvalTask& task, const std::vector<Json>& fewshot_pool, PromptOptions options);

  bool choices_are_questions() const { return options_.choices_are_questions; }
  // The prompt of the next row: [{"role", "content"}, ...] or text. Rows come in document order.
  Json next(const Json& row);
  // The same for each of `questions`, behind the same examples.
  std::vector<Json> next(const Json& row, const std::vector<std::string>& questions);

 private:
  // One message, and what follows it when the prompt is one text.
  struct Turn {
    const char* role;
    std::string content;
    std::string delimiter;
  };
  std::vector<Turn> system_and_examples(const Json& row);
  void add_example(const Json& example, std::vector<Turn>& turns) const;
  void add_question(const Json& row, const std::string& question, const std::string& delimiter,
                    std::vector<Turn>& turns) const;
  Json rendered(std::vector<Turn> turns) const;
  static Json messages(const std::vector<Turn>& turns);
  static Json single_turn(std::vector<Turn> turns);

  const EvalTask& task_;
  const std::vector<Json>& pool_;
  PromptOptions options_;
  FewshotSampler sampler_;
};

}  // namespace quern
