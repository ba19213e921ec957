// Compares two runs of an evaluation, ours or the harness's, task by task and question by question.
// Must never trust that two files asked the same questions: documents are paired by id and hash.
// Proved by tests/eval/compare_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quern/eval/recovery.h"
#include "quern/eval/run_files.h"

namespace quern {

// One question with what both models made of it.
struct PairedQuestion {
  std::int64_t doc_id = 0;
  RunSample base;
  RunSample quantized;
};

// One metric under one filter of one task, in both files.
struct ComparedScore {
  std::string task;
  std::string filter;
  std::string metric;
  MeanScore base;
  MeanScore quantized;
  std::optional<double> recovery;  // quantized / base; empty when the base is 0
  std::optional<Interval> interval;
  bool paired = false;
  std::string unpaired_reason;               // why not, when not paired
  std::optional<PairedCounts> counts;        // of paired 0/1 scores
  std::optional<PairedBootstrap> bootstrap;  // of paired scores
  std::vector<PairedQuestion> questions;     // all of them, in document order, when paired
};

struct Comparison {
  std::string base_name;  // model name, or the file's
  std::string quantized_name;
  std::vector<ComparedScore> scores;
};

// Tasks that are in only one run are left out with a warning; no common score is an error.
Comparison compare_runs(const EvaluationRun& base, const EvaluationRun& quantized);

}  // namespace quern
