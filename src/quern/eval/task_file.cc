// See task_file.h. Keys and defaults: lm-evaluation-harness lm_eval/config/task.py.
#include "quern/eval/task_file.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/embedded_tasks.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/python_text.h"
#include "quern/eval/yaml_json.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTaskBytes = 1 << 20;
constexpr int kMaxIncludes = 8;
constexpr std::int64_t kMaxRepeats = 1024;

// Keys that change what is asked or scored in a way that is not implemented: refused, never
// ignored.
constexpr std::array<std::string_view, 8> kRefusedKeys{
    "process_docs", "process_results", "custom_dataset", "doc_to_image",
    "doc_to_audio", "use_prompt",      "group",          "class"};

template <typename Kind>
struct Named {
  std::string_view name;
  Kind kind;
};
constexpr Named<OutputType> kOutputTypes[] = {{"generate_until", OutputType::kGenerateUntil},
                                              {"loglikelihood", OutputType::kLoglikelihood},
                                              {"multiple_choice", OutputType::kMultipleChoice},
                                              {"loglikelihood_rolling", OutputType::kRolling}};
constexpr Named<FilterKind> kFilters[] = {{"regex", FilterKind::kRegex},
                                          {"multi_choice_regex", FilterKind::kMultiChoiceRegex},
                                          {"remove_whitespace", FilterKind::kRemoveWhitespace},
                                          {"lowercase", FilterKind::kLowercase},
                                          {"uppercase", FilterKind::kUppercase},
                                          {"map", FilterKind::kMap},
                                          {"take_first_k", FilterKind::kTakeFirstK},
                                          {"majority_vote", FilterKind::kMajorityVote},
                                          {"take_first", FilterKind::kTakeFirst}};
constexpr Named<MetricKind> kMetrics[] = {{"exact_match", MetricKind::kExactMatch},
                                          {"acc", MetricKind::kAcc},
                                          {"acc_norm", MetricKind::kAccNorm},
                                          {"acc_bytes", MetricKind::kAccBytes},
                                          {"acc_mutual_info", MetricKind::kAccMutualInfo},
                                          {"perplexity", MetricKind::kPerplexity},
                                          {"word_perplexity", MetricKind::kWordPerplexity},
                                          {"byte_perplexity", MetricKind::kBytePerplexity},
                                          {"bits_per_byte", MetricKind::kBitsPerByte},
                                          {"bypass", MetricKind::kBypass}};

// The kind of that name; an unknown one is an error that lists the known ones.
template <typename Kind, std::size_t N>
Kind kind_of(const Named<Kind> (&table)[N], const std::string& name, const std::string& what) {
  std::string known;
  for (const Named<Kind>& entry : table) {
    if (entry.name == name) return entry.kind;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw Error("{} '{}' is not supported ({})", what, name, known);
}

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

void parse_ignored(const Keys& keys, ExactMatchOptions& options) {
  options.ignore_case = keys.boolean("ignore_case", false);
  options.ignore_punctuation = keys.boolean("ignore_punctuation", false);
  options.ignore_numbers = keys.boolean("ignore_numbers", false);
  for (const Json& pattern : keys.list("regexes_to_ignore")) {
    if (!pattern.is_string()) wrong_type(keys.path("regexes_to_ignore"), "a list of text", pattern);
    options.regexes_to_ignore.push_back(pattern.get<std::string>());
    const PythonRegex compiles(options.regexes_to_ignore.back());
  }
}

FilterStep parse_step(const Keys& keys, const std::string& filter) {
  FilterStep step;
  step.kind = kind_of(kFilters, keys.required_text("function"),
                      fmt::format("filter '{}': function", filter));
  switch (step.kind) {
    case FilterKind::kMultiChoiceRegex:
      parse_ignored(keys, step.ignore);
      [[fallthrough]];
    case FilterKind::kRegex: {
      step.pattern = keys.text("regex_pattern").value_or("#### (\\-?[0-9\\.\\,]+)");
      step.group_select = keys.integer("group_select").value_or(0);
      step.fallback = keys.text("fallback").value_or(step.fallback);
      const PythonRegex compiles(step.pattern);
      break;
    }
    case FilterKind::kMap: {
      const Json* mapping = keys.find("mapping_dict");
      step.mapping = mapping != nullptr ? *mapping : Json::object();
      if (!step.mapping.is_object()) wrong_type(keys.path("mapping_dict"), "a mapping", *mapping);
      if (const Json* value = keys.find("default_value")) step.default_value = *value;
      break;
    }
    case FilterKind::kTakeFirstK: {
      const std::int64_t k = keys.integer("k").value_or(0);
      if (k < 1) throw Error("filter '{}': take_first_k needs k above 0", filter);
      step.k = static_cast<std::size_t>(k);
      break;
    }
    default:
      break;
  }
  return step;
}

FilterSpec parse_filter(const Json& entry, const std::string& prefix) {
  const Keys keys(entry, prefix);
  FilterSpec filter{keys.required_text("name"), {}};
  for (const Json& step : keys.list("filter")) {
    if (!filter.steps.empty() && filter.steps.back().kind == FilterKind::kTakeFirst) {
      throw Error("filter '{}': nothing may follow take_first", filter.name);
    }
    filter.steps.push_back(parse_step(Keys(step, prefix + ".filter"), filter.name));
  }
  if (filter.steps.empty() || filter.steps.back().kind != FilterKind::kTakeFirst) {
    throw Error("filter '{}' must end with take_first", filter.name);
  }
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
  if (filters.empty()) filters.push_back({"none", {FilterStep{}}});
  return filters;
}

bool fits(MetricKind metric, OutputType type) {
  switch (metric) {
    case MetricKind::kExactMatch:
      return type == OutputType::kGenerateUntil || type == OutputType::kMultipleChoice;
    case MetricKind::kAcc:
      return type == OutputType::kLoglikelihood || type == OutputType::kMultipleChoice;
    case MetricKind::kAccNorm:
    case MetricKind::kAccBytes:
    case MetricKind::kAccMutualInfo:
      return type == OutputType::kMultipleChoice;
    case MetricKind::kPerplexity:
      return type == OutputType::kLoglikelihood;
    case MetricKind::kWordPerplexity:
    case MetricKind::kBytePerplexity:
    case MetricKind::kBitsPerByte:
      return type == OutputType::kRolling;
    case MetricKind::kBypass:
      return true;
  }
  return false;
}

// The aggregation that belongs to a metric; no other one is known.
std::string_view aggregation_name(MetricKind metric) {
  switch (metric) {
    case MetricKind::kPerplexity:
    case MetricKind::kBitsPerByte:
    case MetricKind::kBypass:
      return metric_name(metric);
    case MetricKind::kWordPerplexity:
    case MetricKind::kBytePerplexity:
      return "weighted_perplexity";
    default:
      return "mean";
  }
}

bool is_perplexity(MetricKind metric) {
  return metric == MetricKind::kPerplexity || metric == MetricKind::kWordPerplexity ||
         metric == MetricKind::kBytePerplexity || metric == MetricKind::kBitsPerByte;
}

MetricSpec parse_metric(const Json& entry, OutputType type) {
  const Keys keys(entry, "metric_list");
  const std::string name = keys.required_text("metric");
  MetricSpec metric;
  metric.kind = kind_of(kMetrics, name, "metric");
  if (!fits(metric.kind, type))
    throw Error("metric '{}' does not fit the task's output_type", name);
  const std::string own(aggregation_name(metric.kind));
  if (const auto aggregation = keys.text("aggregation").value_or(own); aggregation != own) {
    throw Error("aggregation '{}' of metric '{}' is not supported ({} is)", aggregation, name, own);
  }
  metric.higher_is_better = keys.boolean("higher_is_better", !is_perplexity(metric.kind));
  parse_ignored(keys, metric.exact_match);
  return metric;
}

std::vector<MetricSpec> parse_metrics(const Keys& keys, OutputType type) {
  std::vector<MetricSpec> metrics;
  if (keys.find("metric_list") == nullptr) {  // the harness's default metrics
    switch (type) {
      case OutputType::kGenerateUntil:
        return {{MetricKind::kExactMatch, true, {}}};
      case OutputType::kLoglikelihood:
        return {{MetricKind::kPerplexity, false, {}}, {MetricKind::kAcc, true, {}}};
      case OutputType::kMultipleChoice:
        return {{MetricKind::kAcc, true, {}}, {MetricKind::kAccNorm, true, {}}};
      case OutputType::kRolling:
        return {{MetricKind::kWordPerplexity, false, {}},
                {MetricKind::kBytePerplexity, false, {}},
                {MetricKind::kBitsPerByte, false, {}}};
    }
  }
  for (const Json& entry : keys.list("metric_list")) {
    metrics.push_back(parse_metric(entry, type));
    for (std::size_t i = 0; i + 1 < metrics.size(); ++i) {
      if (metrics[i].kind == metrics.back().kind)
        throw Error("metric_list: '{}' occurs twice", metric_name(metrics.back().kind));
    }
  }
  if (metrics.empty()) throw Error("metric_list is empty");
  if (type != OutputType::kGenerateUntil)
    std::stable_sort(metrics.begin(), metrics.end(),
                     [](const auto& a, const auto& b) { return a.kind < b.kind; });
  return metrics;
}

// Defaults of TaskConfig.__post_init__ and default_gen_kwargs: temperature as float, `until` =
// fewshot_delimiter.
Json parse_generation(const Keys& keys, const std::string& fewshot_delimiter) {
  const Json* found = keys.find("generation_kwargs");
  Json kwargs = found != nullptr
                    ? *found
                    : Json{{"temperature", 0.0}, {"do_sample", false}, {"max_gen_toks", 256}};
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
}

std::optional<TaskField> optional_field(const std::optional<std::string>& source,
                                        const std::string& name) {
  return source ? std::optional<TaskField>(std::in_place, *source, name) : std::nullopt;
}

std::optional<ChoiceField> choice_field(const Json* written, const std::string& name) {
  return written != nullptr ? std::optional<ChoiceField>(std::in_place, *written, name)
                            : std::nullopt;
}

// Where examples come from: fewshot_config.split, fewshot_split, samples in the file, else the
// training, validation or test split.
void parse_fewshot(const Keys& keys, const Keys& fewshot, EvalTask& task) {
  const std::string sampler = fewshot.text("sampler").value_or("default");
  if (sampler != "default" && sampler != "first_n") {
    throw Error("fewshot_config.sampler '{}' is not supported (default, first_n)", sampler);
  }
  task.fewshot_kind = sampler == "first_n" ? FewshotKind::kFirstN : FewshotKind::kRandom;
  for (const char* key : {"process_docs", "fewshot_indices"}) {
    if (fewshot.find(key) != nullptr) throw Error("key 'fewshot_config.{}' is not supported", key);
  }
  task.fewshot_split = fewshot.text("split");
  if (!task.fewshot_split) task.fewshot_split = keys.text("fewshot_split");
  task.excludes_question = task.fewshot_split == task.test_split;
  const Json* samples = fewshot.find("samples");
  if (samples != nullptr && !task.fewshot_split) {
    if (!samples->is_array()) wrong_type("fewshot_config.samples", "a list of rows", *samples);
    for (const Json& row : *samples) {
      if (!row.is_object()) wrong_type("fewshot_config.samples", "a list of rows", row);
    }
    task.fewshot_samples = *samples;
    return;
  }
  for (const char* key : {"training_split", "validation_split", "test_split"}) {
    if (!task.fewshot_split) task.fewshot_split = keys.text(key);
  }
}

// A field that may be written as a number, as {"doc_to_text": 0}.
std::string column_or_text(const Keys& keys, std::string_view key) {
  const Json* value = keys.find(key);
  if (value != nullptr && value->is_number_integer()) return value->dump();
  return keys.required_text(key);
}

bool all_digits(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string_view metric_name(MetricKind kind) {
  for (const auto& entry : kMetrics) {
    if (entry.kind == kind) return entry.name;
  }
  QUERN_CHECK(false);
}

TaskField::TaskField(std::string source, std::string name)
    : source_(std::move(source)),
      name_(std::move(name)),
      template_(Template::parse(source_, name_, {.keep_trailing_newline = true})) {}

std::string TaskField::render(const Json& row) const {
  Json found = value(row);
  if (!found.is_string()) throw Error("{}: column '{}' is not text", name_, source_);
  return found.get<std::string>();
}

std::optional<std::size_t> TaskField::index(const Json& row) const {
  constexpr std::size_t kMaxDigits = 9;
  const Json found = value(row);
  if (found.is_number_unsigned()) return found.get<std::size_t>();
  if (!found.is_string() || is_column(row)) return std::nullopt;
  const std::string& text = found.get_ref<const std::string&>();
  if (!all_digits(text) || text.size() > kMaxDigits) return std::nullopt;
  return std::stoul(text);
}

bool TaskField::is_column(const Json& row) const { return row.contains(source_); }

Json TaskField::value(const Json& row) const {
  if (const auto column = row.find(source_); column != row.end()) return *column;
  return template_.render(row, {.strict_undefined = true});
}

TargetField::TargetField(Json written, std::string name, bool has_choices)
    : has_choices_(has_choices) {
  if (written.is_string()) {
    field_.emplace(written.get<std::string>(), std::move(name));
  } else if (written.is_number_integer() || written.is_array()) {
    constant_ = std::move(written);
  } else {
    wrong_type(name, "text, an integer or a list", written);
  }
}

Json TargetField::value(const Json& row) const {
  if (!field_) return constant_;
  Json value = field_->value(row);
  if (!value.is_string() || field_->is_column(row)) return value;
  const std::string& text = value.get_ref<const std::string&>();
  const bool is_list = text.size() >= 2 && text.front() == '[' && text.back() == ']';
  const bool is_index = has_choices_ && all_digits(text);
  if (!is_list && !is_index) return value;
  auto literal = parse_python_literal(text);
  if (!literal && is_index) throw Error("{}: '{}' is no index of a choice", field_->name(), text);
  return literal ? *std::move(literal) : value;
}

ChoiceField::ChoiceField(const Json& written, std::string name) : name_(std::move(name)) {
  if (written.is_string()) {
    field_.emplace(written.get<std::string>(), name_);
  } else if (written.is_array()) {
    constant_ = written;
  } else if (written.is_object()) {
    constant_ = Json::array();
    for (const auto& [key, value] : written.items()) constant_.push_back(value);
  } else {
    wrong_type(name_, "text, a list or a mapping", written);
  }
}

std::vector<std::string> ChoiceField::choices(const Json& row) const {
  Json value = field_ ? field_->value(row) : constant_;
  if (value.is_string()) {
    auto literal = parse_python_literal(value.get_ref<const std::string&>());
    if (!literal) throw Error("{}: '{}' is no list", name_, value.get<std::string>());
    value = *std::move(literal);
  }
  if (!value.is_array() || value.empty()) wrong_type(name_, "a list of text", value);
  std::vector<std::string> choices;
  for (const Json& choice : value) {
    if (!choice.is_string()) wrong_type(name_, "a list of text", value);
    choices.push_back(choice.get<std::string>());
    if (choices.back().empty()) throw Error("{}: a choice is empty", name_);
  }
  return choices;
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
    const std::string text = column_or_text(keys, "doc_to_text");
    const Json* target = keys.find("doc_to_target");
    if (target == nullptr) throw Error("key 'doc_to_target' is missing");
    const auto own_or = [&](const char* key) {
      const Json* own = fewshot.find(key);
      return own != nullptr ? own : keys.find(key);
    };
    const Json* choice = keys.find("doc_to_choice");
    const auto path = [&](const char* key) { return name + "." + key; };
    EvalTask task{
        .name = name,
        .alias = keys.text("task_alias").value_or(name),
        .file = file,
        .output_type = kind_of(kOutputTypes, keys.text("output_type").value_or("generate_until"),
                               "output_type"),
        .dataset_path = keys.required_text("dataset_path"),
        .test_split = "",
        .doc_to_text = TaskField(text, path("doc_to_text")),
        .doc_to_target = TargetField(*target, path("doc_to_target"), choice != nullptr),
        .doc_to_choice = choice_field(choice, path("doc_to_choice")),
        .gen_prefix = optional_field(keys.text("gen_prefix"), path("gen_prefix")),
        .fewshot_text =
            TaskField(fewshot.text("doc_to_text").value_or(text), path("fewshot.doc_to_text")),
        .fewshot_target =
            TargetField(*own_or("doc_to_target"), path("fewshot.doc_to_target"), choice != nullptr),
        .fewshot_choice = choice_field(own_or("doc_to_choice"), path("fewshot.doc_to_choice")),
        .fewshot_gen_prefix =
            optional_field(fewshot.find("gen_prefix") != nullptr ? fewshot.text("gen_prefix")
                                                                 : keys.text("gen_prefix"),
                           path("fewshot.gen_prefix")),
        .description = TaskField(keys.text("description").value_or(""), path("description"))};
    if (task.output_type == OutputType::kMultipleChoice && choice == nullptr)
      throw Error("key 'doc_to_choice' is missing");
    // The harness evaluates the test split, else the validation split.
    const auto split = keys.text("test_split");
    task.test_split = split ? *split : keys.required_text("validation_split");
    parse_fewshot(keys, fewshot, task);
    if (const Json* kwargs = keys.find("dataset_kwargs")) {
      if (const Json* files = Keys(*kwargs, "dataset_kwargs").find("data_files"))
        task.data_files = *files;
    }
    task.target_delimiter = keys.text("target_delimiter").value_or(" ");
    task.fewshot_delimiter = keys.text("fewshot_delimiter").value_or("\n\n");
    task.example_target_delimiter =
        fewshot.text("target_delimiter").value_or(task.target_delimiter);
    task.example_delimiter = fewshot.text("fewshot_delimiter").value_or(task.fewshot_delimiter);
    task.num_fewshot = keys.integer("num_fewshot");
    const std::int64_t repeats = keys.integer("repeats").value_or(1);
    if (repeats < 1 || repeats > kMaxRepeats)
      throw Error("repeats must be in [1, {}], found {}", kMaxRepeats, repeats);
    task.repeats = static_cast<std::size_t>(repeats);
    if (task.output_type == OutputType::kGenerateUntil)
      task.generation_kwargs = parse_generation(keys, task.fewshot_delimiter);
    task.filters = parse_filters(keys);
    for (const FilterSpec& filter : task.filters) {
      if (task.output_type != OutputType::kGenerateUntil && filter.steps.size() > 1)
        throw Error("filter '{}': only take_first fits the task's output_type", filter.name);
    }
    task.metrics = parse_metrics(keys, task.output_type);
    if (const Json* metadata = keys.find("metadata")) {
      if (const Json* version = Keys(*metadata, "metadata").find("version"))
        task.version = *version;
    }
    task.config = std::move(config);
    return task;
  });
}

bool EvalTask::scores(MetricKind kind) const {
  return std::any_of(metrics.begin(), metrics.end(),
                     [&](const MetricSpec& metric) { return metric.kind == kind; });
}

void skip_metrics(EvalTask& task) {
  task.metrics = {{MetricKind::kBypass, true, {}}};
  task.config["metric_list"] = Json::array({{{"metric", "bypass"}}});
  task.config["process_results"] = "process_results";
}

namespace {

// A task file that was found: its text is parsed only when it is wanted.
struct FoundTask {
  std::string name;
  std::vector<std::string> tags;
  std::string text;
  std::filesystem::path file;
};

std::vector<std::string> tags_of(const Keys& keys) {
  const Json* tag = keys.find("tag");
  if (tag == nullptr) return {};
  if (tag->is_string()) return {tag->get<std::string>()};
  std::vector<std::string> tags;
  for (const Json& entry : keys.list("tag")) {
    if (!entry.is_string()) wrong_type("tag", "text or a list of text", *tag);
    tags.push_back(entry.get<std::string>());
  }
  return tags;
}

// All task files, those of `include_paths` first. Files that are no task files are passed over;
// the first of them is told in `unreadable`.
std::vector<FoundTask> find_tasks(const std::vector<std::filesystem::path>& include_paths,
                                  std::string& unreadable) {
  std::vector<FoundTask> found;
  const auto consider = [&](const std::string& text, const std::filesystem::path& file) {
    try {
      const Json config = merged_config(text, file, 0);
      const Keys keys(config, "");
      if (const auto task = keys.text("task")) found.push_back({*task, tags_of(keys), text, file});
    } catch (const Error& error) {
      if (unreadable.empty()) unreadable = fmt::format("; {}", error.what());
    }
  };
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
    for (const auto& file : files) consider(read_task_text(file), file);
  }
  for (const auto& [file, text] : embedded_task_files()) consider(std::string(text), file);
  return found;
}

bool is_task_path(const std::string& name) {
  return name.ends_with(".yaml") || name.ends_with(".yml");
}

}  // namespace

EvalTask load_task(const std::string& name,
                   const std::vector<std::filesystem::path>& include_paths) {
  if (is_task_path(name)) return parse_task(read_task_text(name), name);
  std::string unreadable;
  std::string known;
  for (const FoundTask& task : find_tasks(include_paths, unreadable)) {
    if (task.name == name) return parse_task(task.text, task.file);
    known += (known.empty() ? "" : ", ") + task.name;
  }
  throw Error("unknown task '{}'; known: {} (--include_path adds more){}", name, known, unreadable);
}

std::vector<EvalTask> load_tasks(const std::string& name,
                                 const std::vector<std::filesystem::path>& include_paths) {
  std::vector<EvalTask> tasks;
  if (std::filesystem::is_directory(name)) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(name)) {
      if (entry.is_regular_file() && entry.path().extension() == ".yaml")
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) tasks.push_back(parse_task(read_task_text(file), file));
    return tasks;
  }
  if (!is_task_path(name)) {
    std::string unreadable;
    const auto fits = [&](const std::string& found) {
      return ::fnmatch(name.c_str(), found.c_str(), 0) == 0;
    };
    const bool is_pattern = name.find_first_of("*?[") != std::string::npos;
    std::vector<FoundTask> found = find_tasks(include_paths, unreadable);
    if (is_pattern)  // of two files of one task the first stays in front
      std::stable_sort(found.begin(), found.end(),
                       [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const FoundTask& task : found) {
      const bool seen = std::any_of(tasks.begin(), tasks.end(),
                                    [&](const EvalTask& other) { return other.name == task.name; });
      const bool wanted =
          std::any_of(task.tags.begin(), task.tags.end(), fits) || (is_pattern && fits(task.name));
      if (!seen && wanted) tasks.push_back(parse_task(task.text, task.file));
    }
  }
  if (tasks.empty()) tasks.push_back(load_task(name, include_paths));
  return tasks;
}

}  // namespace quern
