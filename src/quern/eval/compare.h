// Compares two results files, ours or the harness's, task by task and question by question.
// Must never trust that two files asked the same questions: documents are paired by id and hash.
// Proved by tests/eval/compare_test.cc.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/recovery.h"

namespace quern {

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
  std::string unpaired_reason;         // why not, when not paired
  std::optional<PairedCounts> counts;  // of paired 0/1 scores
};

// A results file, or a directory: the newest results_*.json in it or in one of its folders.
std::filesystem::path find_results_file(const std::filesystem::path& path);

// Tasks that are in only one file are left out with a warning; no common score is an error.
std::vector<ComparedScore> compare_results(const std::filesystem::path& base,
                                           const std::filesystem::path& quantized);

std::string comparison_table(const std::vector<ComparedScore>& scores);
Json comparison_json(const std::vector<ComparedScore>& scores);

}  // namespace quern
