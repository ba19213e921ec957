// Runs tasks against a backend: prompts, concurrent requests, scores.
// Must never reorder: answers land at their question, scores are summed in document order.
// Proved by tests/eval/evaluator_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/arguments.h"
#include "quern/eval/chat_backend.h"
#include "quern/eval/prompt_tokenizer.h"
#include "quern/eval/sample.h"
#include "quern/eval/task_file.h"

namespace quern {

struct EvaluationOptions {
  ModelArguments model;
  std::filesystem::path data_dir;
  std::optional<std::int64_t> num_fewshot;
  std::optional<double> limit;
  std::map<std::string, std::vector<std::size_t>> samples;  // task -> documents; all when absent
  bool apply_chat_template = true;                          // messages, else one text
  bool fewshot_as_multiturn = true;
  // For likelihoods, and where the prompt is not left to the server's chat template.
  const PromptTokenizer* tokenizer = nullptr;
  bool sends_messages = true;  // in generate_until; else their text, or its tokens
  std::string system_instruction;
  Json gen_kwargs = Json::object();                 // over the task's own
  std::optional<std::int64_t> fewshot_seed = 1234;  // empty: unpredictable
  std::filesystem::path cache_file;                 // empty: none
  std::string null_answer;  // stands for `content: null` (LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER)
  bool show_progress = true;
};

struct EvaluatedTask {
  EvalTask task;
  std::int64_t num_fewshot = 0;
  Json generation_kwargs;  // as used, --gen_kwargs merged; null when nothing is generated
  std::size_t original_rows = 0;
  std::vector<EvaluatedSample> samples;
};

struct Evaluation {
  std::vector<EvaluatedTask> tasks;
  std::size_t null_answers = 0;
  std::size_t cached_answers = 0;
  Json backend_identity;
};

// Throws Error when a request fails for good; answers that had arrived are in the cache.
Evaluation evaluate(std::vector<EvalTask> tasks, const EvaluationOptions& options,
                    ChatBackend& backend);

}  // namespace quern
