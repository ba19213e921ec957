// See task_file.h. Keys and defaults: lm-evaluation-harness lm_eval/config/task.py.
#include "quern/eval/task_file.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/embedded_tasks.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/yaml_json.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTaskBytes = 1 << 20;
constexpr int kMaxIncludes = 8;

// Keys that change what is asked or scored in a way that is not implemented: refused, never
// ignored.
constexpr std::array<std::string_view, 10> kRefusedKeys{
    "process_docs",  "process_results", "custom_dataset", "doc_to_image", "doc_to_audio",
    "doc_to_choice", "use_prompt",      "gen_prefix",     "group",        "class"};

[[noreturn]] void wrong_type(std::string_view key, std::string_view expected, const Json& found) {
  throw Error("key '{}' must be {}, found {}", key, expected, found.dump());
}

// Typed access to one mapping of the file; absent and null are alike.
class Keys {
 public:
  Keys(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {
    if (!object.is_object()) wrong_type(prefix_.empty() ? "(file)" : prefix_, "a mapping", object);
  }

  const Json* find(std::string_view key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  std::string path(std::string_view key) const {
    return prefix_.empty() ? std::string(key) : prefix_ + "." + std::string(key);
  }
  std::optional<std::string> text(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) wrong_type(path(key), "text", *value);
    return value->get<std::string>();
  }
  std::string required_text(std::string_view key) const {
    auto value = text(key);
    if (!value) throw Error("key '{}' is missing", path(key));
    return *std::move(value);
  }
  std::optional<std::int64_t> integer(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer()) wrong_type(path(key), "an integer", *value);
    return value->get<std::int64_t>();
  }
  bool boolean(std::string_view key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) wrong_type(path(key), "true or false", *value);
    return value->get<bool>();
  }
  // The elements of a list; empty when absent.
  std::vector<Json> list(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_array()) wrong_type(path(key), "a list", *value);
    return {value->begin(), value->end()};
  }

 private:
  const Json& object_;
  std::string prefix_;
};

std::string read_task_text(const std::filesystem::path& file) {
  return read_file(file, kMaxTaskBytes);
}

// The keys of a file over those of the files it includes.
Json merged_config(const std::string& yaml, const std::filesystem::path& file, int depth) {
  Json own = parse_yaml(yaml, file.string());
  const Keys keys(own, "");
  const auto include = keys.text("include");
  if (!include) return own;
  if (depth >= kMaxIncludes) throw Error("more than {} nested includes", kMaxIncludes);
  const std::filesystem::path beside = file.parent_path() / *include;
  Json merged;
  if (std::filesystem::is_regular_file(beside)) {
    merged = merged_config(read_task_text(beside), beside, depth + 1);
  } else if (const auto embedded = embedded_task_files().find(*include);
             embedded != embedded_task_files().end()) {
    merged = merged_config(std::string(embedded->second), *include, depth + 1);
  } else {
    throw Error("included file '{}' not found (looked for '{}')", *include, beside.string());
  }
  own.erase("include");
  merged.update(own);
  return merged;
}

FilterSpec parse_filter(const Json& entry, const std::string& prefix) {
  const Keys keys(entry, prefix);
  FilterSpec filter{keys.required_text("name"), {}};
  bool taken = false;
  for (const Json& step : keys.list("filter")) {
    const Keys step_keys(step, prefix + ".filter");
    const std::string function = step_keys.required_text("function");
    if (function == "take_first") {
      taken = true;
      continue;
    }
    if (function != "regex" || taken) {
      throw Error("filter '{}': function '{}'{} is not supported (regex steps, then take_first)",
                  filter.name, function, taken ? " after take_first" : "");
    }
    RegexFilterStep regex;
    regex.pattern = step_keys.text("regex_pattern").value_or("#### (\\-?[0-9\\.\\,]+)");
    regex.group_select = step_keys.integer("group_select").value_or(0);
    regex.fallback = step_keys.text("fallback").value_or(regex.fallback);
    const PythonRegex compiles(regex.pattern);
    filter.steps.push_back(std::move(regex));
  }
  if (!taken) throw Error("filter '{}' must end with take_first", filter.name);
  return filter;
}

std::vector<FilterSpec> parse_filters(const Keys& keys) {
  std::vector<FilterSpec> filters;
  for (const Json& entry : keys.list("filter_list")) {
    filters.push_back(parse_filter(entry, "filter_list"));
    const auto same = [&](const FilterSpec& other) { return other.name == filters.back().name; };
    if (std::count_if(filters.begin(), filters.end(), same) > 1) {
      throw Error("filter_list: two filters are named '{}'", filters.back().name);
    }
  }
  if (filters.empty()) filters.push_back({"none", {}});
  return filters;
}

ExactMatchOptions parse_metric(const Keys& keys) {
  const std::vector<Json> metrics = keys.list("metric_list");
  if (metrics.size() != 1)
    throw Error("metric_list must hold exactly one metric, found {}", metrics.size());
  const Keys metric(metrics[0], "metric_list");
  if (const auto name = metric.required_text("metric"); name != "exact_match") {
    throw Error("metric '{}' is not supported (exact_match is)", name);
  }
  if (const auto aggregation = metric.text("aggregation").value_or("mean"); aggregation != "mean") {
    throw Error("aggregation '{}' is not supported (mean is)", aggregation);
  }
  ExactMatchOptions options;
  options.ignore_case = metric.boolean("ignore_case", false);
  options.ignore_punctuation = metric.boolean("ignore_punctuation", false);
  options.ignore_numbers = metric.boolean("ignore_numbers", false);
  for (const Json& pattern : metric.list("regexes_to_ignore")) {
    if (!pattern.is_string())
      wrong_type("metric_list.regexes_to_ignore", "a list of text", pattern);
    options.regexes_to_ignore.push_back(pattern.get<std::string>());
    const PythonRegex compiles(options.regexes_to_ignore.back());
  }
  return options;
}

// Defaults of TaskConfig.__post_init__: temperature as float, `until` = fewshot_delimiter.
Json parse_generation(const Keys& keys, const std::string& fewshot_delimiter) {
  const Json* found = keys.find("generation_kwargs");
  Json kwargs = found != nullptr ? *found : Json{{"temperature", 0.0}, {"do_sample", false}};
  if (!kwargs.is_object()) wrong_type("generation_kwargs", "a mapping", kwargs);
  if (const auto temperature = kwargs.find("temperature"); temperature != kwargs.end()) {
    if (!temperature->is_number())
      wrong_type("generation_kwargs.temperature", "a number", *temperature);
    *temperature = temperature->get<double>();
  }
  if (!kwargs.contains("until")) kwargs["until"] = Json::array({fewshot_delimiter});
  return kwargs;
}

void refuse_unsupported(const Keys& keys) {
  for (const std::string_view key : kRefusedKeys) {
    if (keys.find(key) != nullptr) throw Error("key '{}' is not supported", key);
  }
  if (const auto type = keys.text("output_type").value_or("generate_until");
      type != "generate_until") {
    throw Error("output_type '{}' is not supported (generate_until is)", type);
  }
  if (const auto repeats = keys.integer("repeats").value_or(1); repeats != 1) {
    throw Error("repeats must be 1, found {}", repeats);
  }
}

void parse_fewshot(const Keys& fewshot, EvalTask& task) {
  const std::string sampler = fewshot.text("sampler").value_or("default");
  if (sampler != "default" && sampler != "first_n") {
    throw Error("fewshot_config.sampler '{}' is not supported (default, first_n)", sampler);
  }
  task.fewshot_kind = sampler == "first_n" ? FewshotKind::kFirstN : FewshotKind::kRandom;
  for (const char* key : {"process_docs", "doc_to_choice", "gen_prefix", "fewshot_indices"}) {
    if (fewshot.find(key) != nullptr) throw Error("key 'fewshot_config.{}' is not supported", key);
  }
  if (const auto split = fewshot.text("split")) task.fewshot_split = split;
  const Json* samples = fewshot.find("samples");
  if (samples != nullptr && !task.fewshot_split) {
    if (!samples->is_array()) wrong_type("fewshot_config.samples", "a list of rows", *samples);
    task.fewshot_samples = *samples;
  }
}

}  // namespace

TaskField::TaskField(std::string source, std::string name)
    : source_(std::move(source)),
      name_(std::move(name)),
      template_(Template::parse(source_, name_, {.keep_trailing_newline = true})) {}

std::string TaskField::render(const Json& row) const {
  if (const auto column = row.find(source_); column != row.end()) {
    if (!column->is_string()) throw Error("{}: column '{}' is not text", name_, source_);
    return column->get<std::string>();
  }
  return template_.render(row, {.strict_undefined = true});
}

EvalTask parse_task(const std::string& yaml, const std::filesystem::path& file) {
  return with_context(file.string(), [&] {
    Json config = merged_config(yaml, file, 0);
    const Keys keys(config, "");
    refuse_unsupported(keys);
    static const Json no_fewshot = Json::object();
    const Json* fewshot_config = keys.find("fewshot_config");
    const Keys fewshot(fewshot_config != nullptr ? *fewshot_config : no_fewshot, "fewshot_config");

    const std::string name = keys.required_text("task");
    const std::string text = keys.required_text("doc_to_text");
    const std::string target = keys.required_text("doc_to_target");
    const auto field = [&](const std::string& source, const char* key) {
      return TaskField(source, name + "." + key);
    };
    EvalTask task{
        .name = name,
        .alias = keys.text("task_alias").value_or(name),
        .file = file,
        .dataset_path = keys.required_text("dataset_path"),
        .test_split = "",
        .fewshot_split = keys.text("fewshot_split"),
        .doc_to_text = field(text, "doc_to_text"),
        .doc_to_target = field(target, "doc_to_target"),
        .fewshot_text = field(fewshot.text("doc_to_text").value_or(text), "doc_to_text"),
        .fewshot_target = field(fewshot.text("doc_to_target").value_or(target), "doc_to_target"),
        .description = field(keys.text("description").value_or(""), "description")};
    // The harness evaluates the test split, else the validation split.
    const auto split = keys.text("test_split");
    task.test_split = split ? *split : keys.required_text("validation_split");
    parse_fewshot(fewshot, task);
    if (!task.fewshot_split && !task.fewshot_samples)
      task.fewshot_split = keys.text("training_split");
    if (const Json* kwargs = keys.find("dataset_kwargs")) {
      if (const Json* files = Keys(*kwargs, "dataset_kwargs").find("data_files"))
        task.data_files = *files;
    }
    task.target_delimiter = keys.text("target_delimiter").value_or(" ");
    task.fewshot_delimiter = keys.text("fewshot_delimiter").value_or("\n\n");
    task.num_fewshot = keys.integer("num_fewshot");
    task.generation_kwargs = parse_generation(keys, task.fewshot_delimiter);
    task.filters = parse_filters(keys);
    task.exact_match = parse_metric(keys);
    if (const Json* metadata = keys.find("metadata")) {
      if (const Json* version = Keys(*metadata, "metadata").find("version"))
        task.version = *version;
    }
    task.config = std::move(config);
    return task;
  });
}

EvalTask load_task(const std::string& name,
                   const std::vector<std::filesystem::path>& include_paths) {
  if (name.ends_with(".yaml") || name.ends_with(".yml"))
    return parse_task(read_task_text(name), name);

  std::vector<std::string> known;
  std::string
      unreadable;  // the first file that is no task file, told only when the task is not found
  for (const auto& directory : include_paths) {
    if (!std::filesystem::is_directory(directory)) {
      throw Error("--include_path '{}' is not a directory", directory.string());
    }
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
      if (entry.is_regular_file() && entry.path().extension() == ".yaml")
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      std::optional<std::string> task;
      try {
        const Json config = merged_config(read_task_text(file), file, 0);
        task = Keys(config, "").text("task");
      } catch (const Error& error) {
        if (unreadable.empty()) unreadable = fmt::format("; {}", error.what());
      }
      if (task == name) return parse_task(read_task_text(file), file);
      if (task) known.push_back(*task);
    }
  }
  if (const auto found = embedded_task_files().find(name + ".yaml");
      found != embedded_task_files().end()) {
    return parse_task(std::string(found->second), found->first);
  }
  for (const auto& [file, text] : embedded_task_files())
    known.push_back(file.substr(0, file.size() - 5));
  std::string list;
  for (const std::string& task : known) list += (list.empty() ? "" : ", ") + task;
  throw Error("unknown task '{}'; known: {} (--include_path adds more){}", name, list, unreadable);
}

}  // namespace quern
