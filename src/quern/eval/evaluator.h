// Runs tasks against a backend: prompts, concurrent requests, scores.
// Must never reorder: answers land at their question, scores are summed in document order.
// Proved by tests/eval/evaluator_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/arguments.h"
#include "quern/eval/chat_backend.h"
#include "quern/eval/task_file.h"

namespace quern {

struct EvaluationOptions {
  ModelArguments model;
  std::filesystem::path data_dir;
  std::optional<std::int64_t> num_fewshot;
  std::optional<double> limit;
  bool fewshot_as_multiturn = true;
  std::string system_instruction;
  Json gen_kwargs = Json::object();                 // over the task's own
  std::optional<std::int64_t> fewshot_seed = 1234;  // empty: unpredictable
  std::filesystem::path cache_file;                 // empty: none
  std::string null_answer;  // stands for `content: null` (LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER)
  bool show_progress = true;
};

// One question with its answer; per filter the extraction and the score, in the task's filter
// order.
struct EvaluatedSample {
  std::size_t doc_id = 0;
  Json doc;
  std::string target;
  Json messages;
  std::string answer;
  std::vector<std::string> filtered;
  std::vector<double> scores;
};

struct EvaluatedTask {
  EvalTask task;
  std::int64_t num_fewshot = 0;
  Json generation_kwargs;  // as used, --gen_kwargs merged
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
