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

// What a question asks of the model.
enum class OutputType : std::uint8_t {
  kGenerateUntil,   // write an answer
  kLoglikelihood,   // how likely is the target
  kMultipleChoice,  // which of the choices is the likeliest
  kRolling,         // how likely is a whole text
};

struct ExactMatchOptions {
  std::vector<std::string> regexes_to_ignore;
  bool ignore_case = false;
  bool ignore_punctuation = false;
  bool ignore_numbers = false;
};

enum class FilterKind : std::uint8_t {
  kRegex,
  kMultiChoiceRegex,
  kRemoveWhitespace,
  kLowercase,
  kUppercase,
  kMap,
  kTakeFirstK,
  kMajorityVote,
  kTakeFirst,
};

// One step of a filter; which fields count depends on the kind.
struct FilterStep {
  FilterKind kind = FilterKind::kTakeFirst;
  std::string pattern;  // regex, multi_choice_regex
  std::int64_t group_select = 0;
  std::string fallback = "[invalid]";
  ExactMatchOptions ignore;      // multi_choice_regex: before the choices are looked for
  Json mapping;                  // map: an object
  Json default_value = nullptr;  // map
  std::size_t k = 0;             // take_first_k
};

// One entry of filter_list; the last step is take_first, the only one.
struct FilterSpec {
  std::string name;
  std::vector<FilterStep> steps;
};

// In the order in which the harness scores the metrics of a likelihood task.
enum class MetricKind : std::uint8_t {
  kPerplexity,
  kAcc,
  kAccNorm,
  kAccBytes,
  kExactMatch,
  kAccMutualInfo,
  kWordPerplexity,
  kBytePerplexity,
  kBitsPerByte,
  kBypass
};
std::string_view metric_name(MetricKind kind);

struct MetricSpec {
  MetricKind kind = MetricKind::kExactMatch;
  bool higher_is_better = true;
  ExactMatchOptions exact_match;
};

// A field of a task: the name of a column, or a Jinja template over the columns.
class TaskField {
 public:
  TaskField(std::string source, std::string name);
  // The text for one row; throws Error when the column is no text or a variable is missing.
  std::string render(const Json& row) const;
  // The index of a choice that the field gives: a whole number, or text of digits.
  std::optional<std::size_t> index(const Json& row) const;
  // A column's value of any type; text for a template.
  Json value(const Json& row) const;
  bool is_column(const Json& row) const;
  const std::string& name() const { return name_; }

 private:
  std::string source_;
  std::string name_;
  Template template_;
};

// doc_to_target: text, the index of a choice, or several texts of which any is right.
class TargetField {
 public:
  // `written` is text, an integer or a list. With choices, digits are an index.
  TargetField(Json written, std::string name, bool has_choices);
  Json value(const Json& row) const;

 private:
  Json constant_;  // null when the field is rendered
  std::optional<TaskField> field_;
  bool has_choices_;
};

// doc_to_choice: a list, the values of a mapping, or a field that gives a list.
class ChoiceField {
 public:
  ChoiceField(const Json& written, std::string name);
  std::vector<std::string> choices(const Json& row) const;

 private:
  std::string name_;
  Json constant_;
  std::optional<TaskField> field_;
};

enum class FewshotKind { kRandom, kFirstN };

struct EvalTask {
  std::string name;
  std::string alias;
  std::filesystem::path file;
  Json config = nullptr;  // the keys as written, includes merged

  OutputType output_type = OutputType::kGenerateUntil;
  std::string dataset_path;
  std::string test_split;
  std::optional<std::string> fewshot_split = std::nullopt;  // where examples come from
  bool excludes_question = false;                           // a question is no example of its own
  std::optional<Json> fewshot_samples = std::nullopt;       // rows written in the task file itself
  FewshotKind fewshot_kind = FewshotKind::kRandom;
  Json data_files = nullptr;  // split -> path, when dataset_path is "json"

  TaskField doc_to_text;
  TargetField doc_to_target;
  std::optional<ChoiceField> doc_to_choice = std::nullopt;
  std::optional<TaskField> gen_prefix = std::nullopt;  // begins the model's answer
  TaskField fewshot_text;                              // fewshot_config may override these
  TargetField fewshot_target;
  std::optional<ChoiceField> fewshot_choice = std::nullopt;
  std::optional<TaskField> fewshot_gen_prefix = std::nullopt;
  TaskField description;
  std::string target_delimiter = " ";
  std::string fewshot_delimiter = "\n\n";
  std::string example_target_delimiter = " ";  // the same two inside examples
  std::string example_delimiter = "\n\n";
  std::optional<std::int64_t> num_fewshot = std::nullopt;
  std::size_t repeats = 1;  // answers to each question
  Json generation_kwargs = nullptr;
  std::vector<FilterSpec> filters = {};
  std::vector<MetricSpec> metrics = {};
  bool scores(MetricKind kind) const;
  Json version = nullptr;  // metadata.version, null when not given
};

// Finds `name` (a task name, or the path of a .yaml file): first in the files of `include_paths`,
// then among the embedded ones.
EvalTask load_task(const std::string& name,
                   const std::vector<std::filesystem::path>& include_paths);
// All tasks that carry `name` as a tag, or fit it as a pattern ("gsm8k*"), else the one of that
// name. A directory: all its .yaml files.
std::vector<EvalTask> load_tasks(const std::string& name,
                                 const std::vector<std::filesystem::path>& include_paths);
// A task from YAML text; `include` is resolved beside `file`, then among the embedded tasks.
EvalTask parse_task(const std::string& yaml, const std::filesystem::path& file);

// --predict_only: answers are kept, nothing is scored.
void skip_metrics(EvalTask& task);

}  // namespace quern
