// The rows of a task: JSON Lines files on this machine.
// Must never download anything.
// Proved by tests/eval/prompt_test.cc.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/task_file.h"

namespace quern {

// One JSON object a line; empty lines are skipped, anything else is an error with its line number.
std::vector<Json> read_jsonl(const std::filesystem::path& file);

// The file of a split. dataset_path "json": data_files[split], in the current directory, else in a
// data directory. Any other dataset: DIR/<last part of dataset_path>/<split>.jsonl. Data
// directories are `data_dir` (when not empty), ./data and the data/ that the program was built
// with, in this order.
std::filesystem::path find_split(const EvalTask& task, const std::string& split,
                                 const std::filesystem::path& data_dir);

}  // namespace quern
