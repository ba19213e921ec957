// Reads what a run of an evaluation left on disk, ours or the harness's: a results file with its
// samples, a folder of them, or a samples file alone.
// Must never trust a file: every key is checked, and an error names file, line and key.
// Proved by tests/eval/compare_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/recovery.h"

namespace quern {

// One question under one filter.
struct RunSample {
  std::string doc_hash;
  std::string question;   // what was asked: the last message, or the text of the prompt
  std::string target;     // the reference answer
  std::string answer;     // what the model wrote
  std::string extracted;  // what the filter made of it
  double score = 0;
};

// One metric under one filter of one task.
struct RunScore {
  std::string task;
  std::string metric;
  std::string filter;
  MeanScore mean;
  std::map<std::int64_t, RunSample> samples;  // by doc_id; empty when there is no samples file
};

struct EvaluationRun {
  std::filesystem::path file;
  std::string model;  // model_name of the results file; empty when it has none
  Json results;       // the results file; null when only samples were given
  std::vector<RunScore> scores;
};

// A directory: the newest results_*.json in it or in one of its folders. A file: itself.
std::filesystem::path find_results_file(const std::filesystem::path& path);

// `path` is a directory, a results file (.json) or a samples file (.jsonl).
EvaluationRun read_run(const std::filesystem::path& path);

}  // namespace quern
