// The harness's files: results JSON and samples JSONL, with keys in its order.
// Must never hold a number that was not measured in this run.
// Proved by tests/eval/results_table_test.cc (task hashes of GSM8K) and tests/golden/eval.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/evaluator.h"

namespace quern {

// What the command line said, for the "config" part and the console line.
struct ReportSettings {
  std::string model_source;  // "local-chat-completions" or "quern"
  Json model_args = Json::object();
  Json batch_size = 1;  // text as typed, or 1
  Json device;
  Json use_cache;
  std::optional<double> limit;
  std::optional<std::int64_t> num_fewshot;
  Json gen_kwargs = Json::object();
  std::vector<Json> seeds;  // python, numpy, torch, few-shot; null for None
  std::string system_instruction;
  // The template that rendered the messages on this side, "" when the server's own did, null when
  // there are none.
  Json chat_template;
  Json tokenizer_info =
      Json::object();                // tokenizer_pad_token, ..., max_length; empty: no tokenizer
  Json fewshot_as_multiturn = true;  // null: not given, and no messages
  bool log_samples = false;
  double start_unix_time = 0;
  double seconds = 0;
};

// The lines of samples_<task>.jsonl: all documents under the first filter, then under the next.
std::vector<Json> sample_lines(const EvaluatedTask& task);
// sha256 over doc_hash + prompt_hash + target_hash of those lines: independent of the answers.
std::string task_hash(const std::vector<Json>& lines);

// The results file. `metric_values` only: no environment of this machine besides the program's
// version.
Json results_json(const Evaluation& evaluation, const ReportSettings& settings);

// First of peft, delta, pretrained, model, path, engine of the model arguments; "" when none is
// text.
std::string model_name_of(const Json& model_args);
// Runs of " < > : / | \ ? * [ ] become "__".
std::string sanitize_model_name(const std::string& name);

struct SavedFiles {
  std::filesystem::path results;
  std::vector<std::filesystem::path> samples;
};

// Writes where the harness writes: a directory gets <model>/results_<date>.json, a path that ends
// in .json gets <stem>_<date>.json beside it; samples lie in the same folder.
SavedFiles save_results(const Evaluation& evaluation, const ReportSettings& settings,
                        const Json& results, const std::filesystem::path& output_path);

// The results file alone; gives its path.
std::filesystem::path save_results_file(const Json& results, const std::string& model,
                                        const std::filesystem::path& output_path);

// Line 1 of the console: model, arguments, limits, as Python prints them.
std::string console_line(const ReportSettings& settings);

}  // namespace quern
