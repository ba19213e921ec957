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
#include "quern/eval/python_regex.h"
#include "quern/eval/python_text.h"
#include "quern/eval/scoring.h"
#include "quern/eval/sha256.h"

namespace quern {
namespace {

constexpr const char* kVersion = "quern 0.1.0";
constexpr std::int64_t kBootstrapIterations = 100'000;  // the harness's default; mean needs none
constexpr PythonJsonStyle kOneLine{.ensure_ascii = false, .indent = -1};
constexpr PythonJsonStyle kIndented{.ensure_ascii = false, .indent = 2};

std::vector<double> scores_of(const EvaluatedTask& task, std::size_t filter) {
  std::vector<double> scores;
  for (const EvaluatedSample& sample : task.samples) scores.push_back(sample.scores[filter]);
  return scores;
}

Json task_results(const EvaluatedTask& task) {
  Json out{
      {"name", task.task.name}, {"alias", task.task.alias}, {"sample_len", task.samples.size()}};
  for (std::size_t i = 0; i < task.task.filters.size(); ++i) {
    const std::vector<double> scores = scores_of(task, i);
    const std::string& filter = task.task.filters[i].name;
    out["exact_match," + filter] = mean(scores);
    const auto error = mean_stderr(scores);
    out["exact_match_stderr," + filter] = error ? Json(*error) : Json("N/A");
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
              {"doc_to_choice", nullptr},
              {"doc_to_target", pick("doc_to_target", "doc_to_target")},
              {"gen_prefix", nullptr},
              {"fewshot_delimiter", task.task.fewshot_delimiter},
              {"target_delimiter", task.task.target_delimiter}};
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
  copy({"task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs",
        "training_split", "validation_split", "test_split", "fewshot_split", "doc_to_text",
        "doc_to_target"});
  out["unsafe_code"] = false;
  out["description"] = written.value("description", "");
  out["target_delimiter"] = task.task.target_delimiter;
  out["fewshot_delimiter"] = task.task.fewshot_delimiter;
  out["fewshot_config"] = fewshot_config(task, written.value("fewshot_config", Json()));
  out["num_fewshot"] = task.num_fewshot;
  copy({"metric_list"});
  out["output_type"] = "generate_until";
  out["generation_kwargs"] = task.generation_kwargs;
  out["repeats"] = 1;
  copy({"filter_list"});
  out["should_decontaminate"] = false;
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

std::vector<Json> sample_lines(const EvaluatedTask& task) {
  std::vector<Json> lines;
  for (std::size_t f = 0; f < task.task.filters.size(); ++f) {
    for (const EvaluatedSample& sample : task.samples) {
      const std::string prompt = python_json(sample.messages, kOneLine);
      lines.push_back(Json{
          {"doc_id", sample.doc_id},
          {"doc", sample.doc},
          {"target", sample.target},
          {"arguments",
           {{"gen_args_0", {{"arg_0", Json::array({prompt})}, {"arg_1", task.generation_kwargs}}}}},
          {"resps", Json::array({Json::array({sample.answer})})},
          {"filtered_resps", Json::array({sample.filtered[f]})},
          {"filter", task.task.filters[f].name},
          {"metrics", Json::array({"exact_match"})},
          {"doc_hash", sha256_hex(python_json(sample.doc, kIndented))},
          {"prompt_hash", sha256_hex(prompt)},
          {"target_hash", sha256_hex(sample.target)},
          {"exact_match", sample.scores[f]}});
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
    counts[task.task.name] = {{"original", task.original_rows}, {"effective", task.samples.size()}};
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
    higher[name] = {{"exact_match", true}};
  }
  if (settings.log_samples) {
    for (const EvaluatedTask& task : evaluation.tasks)
      hashes[task.task.name] = task_hash(sample_lines(task));
  }
  const std::string model = model_name_of(settings.model_args);
  const bool has_system = !settings.system_instruction.empty();
  return Json{
      {"results", results},
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
      {"lm_eval_version", kVersion},
      {"upper_git_hash", nullptr},
      {"task_hashes", hashes},
      {"model_source", settings.model_source},
      {"model_name", model},
      {"model_name_sanitized", sanitize_model_name(model)},
      {"system_instruction", has_system ? Json(settings.system_instruction) : Json(nullptr)},
      {"system_instruction_sha",
       has_system ? Json(sha256_hex(settings.system_instruction)) : Json(nullptr)},
      {"fewshot_as_multiturn", settings.fewshot_as_multiturn},
      {"chat_template", ""},
      {"chat_template_sha", nullptr},
      {"total_evaluation_time_seconds", python_float(settings.seconds)},
      {"null_answers", evaluation.null_answers},
      {"backend", evaluation.backend_identity}};
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

SavedFiles save_results(const Evaluation& evaluation, const ReportSettings& settings,
                        const Json& results, const std::filesystem::path& output_path) {
  const std::string date = date_id();
  const bool is_file = output_path.extension() == ".json";
  const std::filesystem::path folder =
      is_file ? output_path.parent_path()
              : output_path / sanitize_model_name(model_name_of(settings.model_args));
  if (!folder.empty()) std::filesystem::create_directories(folder);
  SavedFiles saved;
  saved.results =
      folder / fmt::format("{}_{}.json", is_file ? output_path.stem().string() : "results", date);
  write_file(saved.results, python_json(results, kIndented));
  if (!settings.log_samples) return saved;
  for (const EvaluatedTask& task : evaluation.tasks) {
    std::string text;
    for (const Json& line : sample_lines(task)) text += python_json(line, kOneLine) + "\n";
    saved.samples.push_back(folder / fmt::format("samples_{}_{}.jsonl", task.task.name, date));
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
