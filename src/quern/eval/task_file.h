// A task of the evaluation: a YAML file in lm-evaluation-harness's form, checked and typed.
// Must never run code from a file (!function, process_docs): such a file is refused by key.
// Proved by tests/eval/task_file_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/text/jinja.h"

namespace quern {

struct RegexFilterStep {
  std::string pattern;
  std::int64_t group_select = 0;
  std::string fallback = "[invalid]";
};

// One entry of filter_list: its regex steps in order (then take_first, which the form requires).
struct FilterSpec {
  std::string name;
  std::vector<RegexFilterStep> steps;
};

struct ExactMatchOptions {
  std::vector<std::string> regexes_to_ignore;
  bool ignore_case = false;
  bool ignore_punctuation = false;
  bool ignore_numbers = false;
};

// A field of a task: the name of a column, or a Jinja template over the columns.
class TaskField {
 public:
  TaskField(std::string source, std::string name);
  // The text for one row; throws Error when the column is no text or a variable is missing.
  std::string render(const Json& row) const;

 private:
  std::string source_;
  std::string name_;
  Template template_;
};

enum class FewshotKind { kRandom, kFirstN };

struct EvalTask {
  std::string name;
  std::string alias;
  std::filesystem::path file;
  Json config = nullptr;  // the keys as written, includes merged

  std::string dataset_path;
  std::string test_split;
  std::optional<std::string> fewshot_split;
  std::optional<Json> fewshot_samples = std::nullopt;  // rows written in the task file itself
  FewshotKind fewshot_kind = FewshotKind::kRandom;
  Json data_files = nullptr;  // split -> path, when dataset_path is "json"

  TaskField doc_to_text;
  TaskField doc_to_target;
  TaskField fewshot_text;  // fewshot_config may override the two
  TaskField fewshot_target;
  TaskField description;
  std::string target_delimiter = " ";
  std::string fewshot_delimiter = "\n\n";
  std::optional<std::int64_t> num_fewshot = std::nullopt;
  Json generation_kwargs = nullptr;
  std::vector<FilterSpec> filters = {};
  ExactMatchOptions exact_match = {};
  Json version = nullptr;  // metadata.version, null when not given
};

// Finds `name` (a task name, or the path of a .yaml file): first in the files of `include_paths`,
// then among the embedded ones.
EvalTask load_task(const std::string& name,
                   const std::vector<std::filesystem::path>& include_paths);
// A task from YAML text; `include` is resolved beside `file`, then among the embedded tasks.
EvalTask parse_task(const std::string& yaml, const std::filesystem::path& file);

}  // namespace quern
