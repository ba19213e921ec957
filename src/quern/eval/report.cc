// See report.h. Source: lm-evaluation-harness lm_eval/evaluator.py, lm_eval/evaluator_utils.py,
// lm_eval/loggers/evaluation_tracker.py, lm_eval/config/task.py (order of keys).
#include "quern/eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <map>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/version.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/python_text.h"
#include "quern/eval/scoring.h"
#include "quern/eval/sha256.h"

namespace quern {
namespace {

constexpr std::int64_t kBootstrapIterations = 100'000;  // the harness's default; mean needs none
constexpr PythonJsonStyle kOneLine{.ensure_ascii = false, .indent = -1};
constexpr PythonJsonStyle kIndented{.ensure_ascii = false, .indent = 2};

std::vector<Json> scores_of(const EvaluatedTask& task, std::size_t filter, std::size_t metric) {
  std::vector<Json> scores;
  for (const EvaluatedSample& sample : task.samples)
    scores.push_back(sample.scores[filter][metric]);
  return scores;
}

// Nothing at all is scored when likelihoods are not to be scored (--predict_only).
bool has_scores(const EvaluatedTask& task) { return !task.samples.front().scores.front().empty(); }

Json task_results(const EvaluatedTask& task) {
  const bool scored = has_scores(task);
  Json out{{"name", task.task.name},
           {"alias", task.task.alias},
           {"sample_len", scored ? task.samples.size() : 0}};
  for (std::size_t f = 0; scored && f < task.task.filters.size(); ++f) {
    const std::string& filter = task.task.filters[f].name;
    for (std::size_t m = 0; m < task.task.metrics.size(); ++m) {
      const MetricKind kind = task.task.metrics[m].kind;
      const Aggregate found = aggregate(kind, scores_of(task, f, m));
      out[fmt::format("{},{}", metric_name(kind), filter)] = found.value;
      out[fmt::format("{}_stderr,{}", metric_name(kind), filter)] =
          found.error ? Json(*found.error) : Json("N/A");
    }
  }
  return out;
}

Json fewshot_config(const EvaluatedTask& task, const Json& written) {
  const Json& config = task.task.config;
  const Json own = written.is_object() ? written : Json::object();
  const auto pick = [&](const char* key, const char* inherited) -> Json {
    if (own.contains(key)) return own[key];
    return inherited != nullptr && config.contains(inherited) ? config[inherited] : Json(nullptr);
  };
  const auto or_default = [](Json value, const char* text) {
    return value.is_null() ? Json(text) : value;
  };
  return Json{{"sampler", or_default(pick("sampler", nullptr), "default")},
              {"split", pick("split", "fewshot_split")},
              {"process_docs", nullptr},
              {"fewshot_indices", nullptr},
              {"samples", pick("samples", nullptr)},
              {"doc_to_text", pick("doc_to_text", "doc_to_text")},
              {"doc_to_choice", pick("doc_to_choice", "doc_to_choice")},
              {"doc_to_target", pick("doc_to_target", "doc_to_target")},
              {"gen_prefix", pick("gen_prefix", "gen_prefix")},
              {"fewshot_delimiter", task.task.example_delimiter},
              {"target_delimiter", task.task.example_target_delimiter}};
}

// TaskConfig.to_dict(): fields in the order of the class, those that are None left out.
Json task_config(const EvaluatedTask& task, const Json& model_args) {
  const Json& written = task.task.config;
  Json out = Json::object();
  const auto copy = [&](std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
      if (written.contains(key) && !written[key].is_null()) out[key] = written[key];
    }
  };
  copy({"task", "task_alias", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
        "validation_split", "test_split", "fewshot_split", "doc_to_text", "doc_to_target"});
  out["unsafe_code"] = false;
  copy({"doc_to_choice", "process_results"});
  out["description"] = written.value("description", "");
  out["target_delimiter"] = task.task.target_delimiter;
  out["fewshot_delimiter"] = task.task.fewshot_delimiter;
  out["fewshot_config"] = fewshot_config(task, written.value("fewshot_config", Json()));
  out["num_fewshot"] = task.num_fewshot;
  copy({"metric_list"});
  out["output_type"] = written.value("output_type", "generate_until");
  if (!task.generation_kwargs.is_null()) out["generation_kwargs"] = task.generation_kwargs;
  out["repeats"] = task.task.repeats;
  copy({"filter_list"});
  out["should_decontaminate"] = written.value("should_decontaminate", false);
  copy({"doc_to_decontamination_query", "gen_prefix"});
  Json metadata = written.value("metadata", Json::object());
  if (metadata.is_object()) metadata.update(model_args);
  out["metadata"] = metadata;
  return out;
}

Json run_config(const ReportSettings& settings) {
  return Json{{"model", settings.model_source},
              {"model_args", settings.model_args},
              {"batch_size", settings.batch_size},
              {"batch_sizes", Json::array()},
              {"device", settings.device},
              {"use_cache", settings.use_cache},
              {"limit", settings.limit ? Json(*settings.limit) : Json(nullptr)},
              {"bootstrap_iters", kBootstrapIterations},
              {"gen_kwargs", settings.gen_kwargs},
              {"random_seed", settings.seeds.at(0)},
              {"numpy_seed", settings.seeds.at(1)},
              {"torch_seed", settings.seeds.at(2)},
              {"fewshot_seed", settings.seeds.at(3)}};
}

// datetime.now().isoformat() with ":" replaced.
std::string date_id() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() %
      1'000'000;
  std::tm local{};
  ::localtime_r(&seconds, &local);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H-%M-%S", &local);
  return fmt::format("{}.{:06}", text.data(), micros);
}

}  // namespace

namespace {

// What was asked: the prompt with the generation arguments, or with each continuation; a whole text
// alone. Messages stand as JSON text in a tuple of one, as the harness's chat client keeps them.
Json request_arguments(const EvaluatedTask& task, const EvaluatedSample& sample) {
  const Json prompt = sample.prompt.is_array() ? Json::array({python_json(sample.prompt, kOneLine)})
                                               : sample.prompt;
  Json out = Json::object();
  if (task.task.output_type == OutputType::kRolling) {
    out["gen_args_0"] = {{"arg_0", prompt}};
    return out;
  }
  if (sample.scored.empty()) {
    out["gen_args_0"] = {{"arg_0", prompt}, {"arg_1", task.generation_kwargs}};
  }
  for (std::size_t i = 0; i < sample.scored.size(); ++i) {
    const Continuation& scored = sample.scored[i];
    out[fmt::format("gen_args_{}", i)] = {{"arg_0", scored.prompt}, {"arg_1", scored.text}};
  }
  return out;
}

// Everything inside is text, as the harness writes it: [[ANSWER, ...]], [[[VALUE, GREEDY]], ...],
// or [[VALUE]] of a whole text.
struct Responses {
  Json all = Json::array();
  Json filtered = Json::array();
};
Responses responses(const EvaluatedTask& task, const EvaluatedSample& sample, std::size_t filter) {
  Responses out;
  for (const Loglikelihood& found : sample.likelihoods) {
    Json value = python_float(found.value);
    if (task.task.output_type != OutputType::kRolling)
      value = Json::array({std::move(value), found.is_greedy ? "True" : "False"});
    out.all.push_back(Json::array({value}));
    out.filtered.push_back(std::move(value));
  }
  if (sample.likelihoods.empty()) {
    out.all.push_back(sample.answers);
    out.filtered.push_back(python_str(sample.filtered[filter]));
  }
  return out;
}

}  // namespace

std::vector<Json> sample_lines(const EvaluatedTask& task) {
  std::vector<Json> lines;
  const bool scored = has_scores(task);
  for (std::size_t f = 0; f < task.task.filters.size(); ++f) {
    for (const EvaluatedSample& sample : task.samples) {
      const std::string prompt = sample.prompt.is_array() ? python_json(sample.prompt, kOneLine)
                                                          : sample.prompt.get<std::string>();
      const Responses given = responses(task, sample, f);
      const std::string target = python_str(sample.target);
      Json line{{"doc_id", sample.doc_id},
                {"doc", sample.doc},
                {"target", target},
                {"arguments", request_arguments(task, sample)},
                {"resps", given.all},
                {"filtered_resps", given.filtered},
                {"filter", task.task.filters[f].name},
                {"metrics", Json::array()},
                {"doc_hash", sha256_hex(python_json(sample.doc, kIndented))},
                {"prompt_hash", sha256_hex(prompt)},
                {"target_hash", sha256_hex(target)}};
      for (std::size_t m = 0; scored && m < task.task.metrics.size(); ++m) {
        const std::string name(metric_name(task.task.metrics[m].kind));
        line["metrics"].push_back(name);
        line[name] = sample.scores[f][m];
      }
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

std::string task_hash(const std::vector<Json>& lines) {
  std::string hashes;
  for (const Json& line : lines) {
    for (const char* key : {"doc_hash", "prompt_hash", "target_hash"}) {
      hashes += line[key].get_ref<const std::string&>();
    }
  }
  return sha256_hex(hashes);
}

Json results_json(const Evaluation& evaluation, const ReportSettings& settings) {
  // Most parts are sorted by task name; `results` and `n-samples` keep the order of --tasks.
  std::map<std::string, const EvaluatedTask*> sorted;
  Json results = Json::object();
  Json counts = Json::object();
  for (const EvaluatedTask& task : evaluation.tasks) {
    sorted[task.task.name] = &task;
    results[task.task.name] = task_results(task);
    counts[task.task.name] = {{"original", task.original_rows},
                              {"effective", has_scores(task) ? task.samples.size() : 0}};
  }
  Json configs = Json::object();
  Json versions = Json::object();
  Json shots = Json::object();
  Json higher = Json::object();
  Json hashes = Json::object();
  for (const auto& [name, task] : sorted) {
    configs[name] = task_config(*task, settings.model_args);
    versions[name] = task->task.version.is_null() ? Json("Yaml") : task->task.version;
    shots[name] = task->num_fewshot;
    Json directions = Json::object();
    for (const MetricSpec& metric : task->task.metrics)
      directions[std::string(metric_name(metric.kind))] = metric.higher_is_better;
    higher[name] = std::move(directions);
  }
  if (settings.log_samples) {
    for (const EvaluatedTask& task : evaluation.tasks)
      hashes[task.task.name] = task_hash(sample_lines(task));
  }
  const std::string model = model_name_of(settings.model_args);
  const bool has_system = !settings.system_instruction.empty();
  const Json& chat_template = settings.chat_template;
  Json out{{"results", results},
           {"group_subtasks", Json::object()},
           {"configs", configs},
           {"versions", versions},
           {"n-shot", shots},
           {"higher_is_better", higher},
           {"n-samples", counts},
           {"config", run_config(settings)},
           {"git_hash", nullptr},
           {"date", settings.start_unix_time},
           {"pretty_env_info", "N/A"},
           {"transformers_version", "N/A"},
           {"lm_eval_version", fmt::format("quern {}", version())},
           {"upper_git_hash", nullptr}};
  out.update(settings.tokenizer_info);
  out.update(
      Json{{"task_hashes", hashes},
           {"model_source", settings.model_source},
           {"model_name", model},
           {"model_name_sanitized", sanitize_model_name(model)},
           {"system_instruction", has_system ? Json(settings.system_instruction) : Json(nullptr)},
           {"system_instruction_sha",
            has_system ? Json(sha256_hex(settings.system_instruction)) : Json(nullptr)},
           {"fewshot_as_multiturn", settings.fewshot_as_multiturn},
           {"chat_template", chat_template},
           {"chat_template_sha", chat_template.is_string() && chat_template != ""
                                     ? Json(sha256_hex(chat_template.get<std::string>()))
                                     : Json(nullptr)},
           {"total_evaluation_time_seconds", python_float(settings.seconds)},
           {"null_answers", evaluation.null_answers},
           {"backend", evaluation.backend_identity}});
  return out;
}

std::string model_name_of(const Json& model_args) {
  for (const char* key : {"peft", "delta", "pretrained", "model", "path", "engine"}) {
    if (model_args.contains(key) && model_args[key].is_string())
      return model_args[key].get<std::string>();
  }
  return "";
}

std::string sanitize_model_name(const std::string& name) {
  constexpr std::string_view kReplaced = "\"<>:/|\\?*[]";
  std::string out;
  bool in_run = false;
  for (const char c : name) {
    const bool replaced = kReplaced.find(c) != std::string_view::npos;
    if (!replaced) {
      out += c;
    } else if (!in_run) {
      out += "__";
    }
    in_run = replaced;
  }
  return out;
}

namespace {

// Where the files of one run go: a folder, and what their names begin with and end in.
struct Place {
  std::filesystem::path folder;
  std::string stem;
  std::string date;

  Place(const std::filesystem::path& output_path, const std::string& model) : date(date_id()) {
    const bool is_file = output_path.extension() == ".json";
    stem = is_file ? output_path.stem().string() : "results";
    folder = is_file ? output_path.parent_path() : output_path / sanitize_model_name(model);
    if (!folder.empty()) std::filesystem::create_directories(folder);
  }
  std::filesystem::path results() const { return folder / fmt::format("{}_{}.json", stem, date); }
};

}  // namespace

std::filesystem::path save_results_file(const Json& results, const std::string& model,
                                        const std::filesystem::path& output_path) {
  const Place place(output_path, model);
  write_file(place.results(), python_json(results, kIndented));
  return place.results();
}

SavedFiles save_results(const Evaluation& evaluation, const ReportSettings& settings,
                        const Json& results, const std::filesystem::path& output_path) {
  const Place place(output_path, model_name_of(settings.model_args));
  SavedFiles saved;
  saved.results = place.results();
  write_file(saved.results, python_json(results, kIndented));
  if (!settings.log_samples) return saved;
  for (const EvaluatedTask& task : evaluation.tasks) {
    std::string text;
    for (const Json& line : sample_lines(task)) text += python_json(line, kOneLine) + "\n";
    saved.samples.push_back(place.folder /
                            fmt::format("samples_{}_{}.jsonl", task.task.name, place.date));
    write_file(saved.samples.back(), text);
  }
  return saved;
}

std::string console_line(const ReportSettings& settings) {
  const auto or_none = [](const Json& value) {
    return value.is_string() ? value.get<std::string>() : python_repr(value);
  };
  return fmt::format("{} ({}), gen_kwargs: ({}), limit: {}, num_fewshot: {}, batch_size: {}",
                     settings.model_source, python_repr(settings.model_args),
                     python_repr(settings.gen_kwargs),
                     settings.limit ? python_float(*settings.limit) : "None",
                     settings.num_fewshot ? std::to_string(*settings.num_fewshot) : "None",
                     or_none(settings.batch_size));
}

}  // namespace quern
