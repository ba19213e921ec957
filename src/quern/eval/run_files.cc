// See run_files.h. Layout of the files: lm-evaluation-harness
// lm_eval/loggers/evaluation_tracker.py.
#include "quern/eval/run_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/dataset.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/python_text.h"
#include "quern/eval/scoring.h"

namespace quern {
namespace {

constexpr std::size_t kMaxResultsBytes = 256 << 20;
constexpr JsonLimits kLimits{.max_depth = 128, .reject_duplicate_keys = false};
constexpr const char* kDate = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9-]+(?:\\.[0-9]+)?";

Json read_results(const std::filesystem::path& path) {
  Json results = parse_json(read_file(path, kMaxResultsBytes), path.string(), kLimits);
  if (!results.is_object() || !results.contains("results") || !results["results"].is_object()) {
    throw Error("{}: no results file (key 'results' is missing)", path.string());
  }
  return results;
}

// "results_2026-08-21T19-56-54.123456.json" and task "gsm8k" -> "samples_gsm8k_2026-....jsonl".
std::filesystem::path samples_path(const std::filesystem::path& results, const std::string& task) {
  static const PythonRegex date(fmt::format("({})\\.json\\z", kDate));
  const auto found = date.find_all(results.filename().string());
  if (found.empty()) return {};
  return results.parent_path() / fmt::format("samples_{}_{}.jsonl", task, found[0][0]);
}

// "samples_gsm8k_2026-....jsonl" -> "gsm8k"; any other name stands for itself.
std::string task_of_samples(const std::filesystem::path& samples) {
  static const PythonRegex name(fmt::format("\\Asamples_(.+)_{}\\.jsonl\\z", kDate));
  const auto found = name.find_all(samples.filename().string());
  return found.empty() ? samples.stem().string() : found[0][0];
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>()
                           : python_json(value, {.ensure_ascii = false, .indent = -1});
}

// The prompt is messages as JSON text, or plain text.
std::string question_of(const Json& line) {
  const auto pointer = "/arguments/gen_args_0/arg_0"_json_pointer;
  if (!line.contains(pointer)) return text_of(line.value("doc", Json()));
  const Json& given = line.at(pointer);
  const std::string prompt = text_of(given.is_array() && given.size() == 1 ? given[0] : given);
  if (!prompt.starts_with('[')) return prompt;
  try {
    const Json messages = parse_json(prompt, "prompt", kLimits);
    return text_of(messages.at(messages.size() - 1).at("content"));
  } catch (const std::exception&) {  // a prompt that only looks like messages
    return prompt;
  }
}

// resps is [[TEXT, ...]]: one text a repeat.
std::string answer_of(const Json& line) {
  const Json resps = line.value("resps", Json());
  if (!resps.is_array() || resps.size() != 1 || !resps[0].is_array()) return text_of(resps);
  std::string answer;
  for (const Json& text : resps[0]) answer += (answer.empty() ? "" : "\n---\n") + text_of(text);
  return answer;
}

std::string extracted_of(const Json& line) {
  const Json filtered = line.value("filtered_resps", Json());
  return text_of(filtered.is_array() && filtered.size() == 1 ? filtered[0] : filtered);
}

RunSample sample_of(const Json& line, double score) {
  return {.doc_hash = line["doc_hash"].get<std::string>(),
          .question = question_of(line),
          .target = text_of(line.value("target", Json())),
          .answer = answer_of(line),
          .extracted = extracted_of(line),
          .score = score};
}

// One samples file: its lines, by filter.
class SamplesFile {
 public:
  explicit SamplesFile(std::filesystem::path path) : path_(std::move(path)) {
    std::size_t number = 0;
    for (Json& line : read_jsonl(path_)) {
      ++number;
      const auto require = [&](const char* key, bool (*fits)(const Json&), const char* expected) {
        if (!line.contains(key))
          throw Error("{}: sample {} has no '{}'", path_.string(), number, key);
        if (!fits(line[key])) {
          throw Error("{}: sample {}: '{}' must be {}, found {}", path_.string(), number, key,
                      expected, line[key].type_name());
        }
      };
      require(
          "doc_id", [](const Json& v) { return v.is_number_integer(); }, "an integer");
      require(
          "filter", [](const Json& v) { return v.is_string(); }, "text");
      require(
          "doc_hash", [](const Json& v) { return v.is_string(); }, "text");
      lines_.push_back(std::move(line));
    }
  }

  // The scores of one metric under one filter, by document; none of a metric that is no mean of
  // them.
  std::map<std::int64_t, RunSample> scores(const std::string& metric,
                                           const std::string& filter) const {
    std::map<std::int64_t, RunSample> out;
    if (metric.ends_with("perplexity") || metric == "bits_per_byte") return out;
    for (const Json& line : lines_) {
      if (line["filter"] != filter) continue;
      const auto id = line["doc_id"].get<std::int64_t>();
      if (!line.contains(metric)) {
        throw Error("{}: document {} has no '{}'", path_.string(), id, metric);
      }
      const Json& score = line[metric];
      if (!score.is_number() && !score.is_boolean()) {
        throw Error("{}: document {}: '{}' must be a number, found {}", path_.string(), id, metric,
                    score.type_name());
      }
      const double value =
          score.is_boolean() ? (score.get<bool>() ? 1.0 : 0.0) : score.get<double>();
      if (!out.emplace(id, sample_of(line, value)).second) {
        throw Error("{}: document {} occurs twice under filter '{}'", path_.string(), id, filter);
      }
    }
    return out;
  }

  // (metric, filter) of all lines, in order of appearance.
  std::vector<std::pair<std::string, std::string>> keys() const {
    std::vector<std::pair<std::string, std::string>> out;
    std::set<std::pair<std::string, std::string>> seen;
    for (const Json& line : lines_) {
      const Json metrics = line.value("metrics", Json::array());
      if (!metrics.is_array()) continue;
      for (const Json& metric : metrics) {
        if (!metric.is_string()) continue;
        std::pair key{metric.get<std::string>(), line["filter"].get<std::string>()};
        if (seen.insert(key).second) out.push_back(std::move(key));
      }
    }
    return out;
  }

 private:
  std::filesystem::path path_;
  std::vector<Json> lines_;
};

MeanScore mean_of_samples(const std::map<std::int64_t, RunSample>& samples) {
  std::vector<double> scores;
  for (const auto& [id, sample] : samples) scores.push_back(sample.score);
  return {mean(scores), mean_stderr(scores)};
}

EvaluationRun samples_run(const std::filesystem::path& path) {
  EvaluationRun run{path, "", nullptr, {}};
  const SamplesFile file(path);
  for (const auto& [metric, filter] : file.keys()) {
    RunScore score{task_of_samples(path), metric, filter, {}, file.scores(metric, filter)};
    if (score.samples.empty()) continue;
    score.mean = mean_of_samples(score.samples);
    run.scores.push_back(std::move(score));
  }
  if (run.scores.empty()) throw Error("{}: no sample names a metric", path.string());
  return run;
}

MeanScore mean_score(const Json& task, const std::string& metric, const std::string& filter) {
  MeanScore score{task[metric + "," + filter].get<double>(), std::nullopt};
  const auto error = task.find(metric + "_stderr," + filter);
  if (error != task.end() && error->is_number()) score.stderr_of_mean = error->get<double>();
  return score;
}

void read_task(const Json& values, const std::string& task, EvaluationRun& run) {
  if (!values.is_object()) {
    throw Error("{}: results.{} must be an object", run.file.string(), task);
  }
  const std::filesystem::path path = samples_path(run.file, task);
  std::optional<SamplesFile> samples;
  if (!path.empty() && std::filesystem::is_regular_file(path)) samples.emplace(path);
  for (const auto& [key, value] : values.items()) {
    const std::size_t comma = key.find(',');
    if (comma == std::string::npos || !value.is_number()) continue;
    RunScore score;
    score.task = task;
    score.metric = key.substr(0, comma);
    score.filter = key.substr(comma + 1);
    if (score.metric.ends_with("_stderr")) continue;
    score.mean = mean_score(values, score.metric, score.filter);
    if (samples) score.samples = samples->scores(score.metric, score.filter);
    run.scores.push_back(std::move(score));
  }
}

}  // namespace

std::filesystem::path find_results_file(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return path;
  std::filesystem::path newest;
  const auto consider = [&](const std::filesystem::path& file) {
    const std::string name = file.filename().string();
    if (!name.starts_with("results_") || !name.ends_with(".json")) return;
    if (newest.empty() || name > newest.filename().string())
      newest = file;  // the date is in the name
  };
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.is_regular_file()) consider(entry.path());
    if (!entry.is_directory()) continue;
    for (const auto& inner : std::filesystem::directory_iterator(entry.path())) {
      if (inner.is_regular_file()) consider(inner.path());
    }
  }
  if (newest.empty()) throw Error("'{}' holds no results_*.json", path.string());
  return newest;
}

EvaluationRun read_run(const std::filesystem::path& path) {
  if (path.extension() == ".jsonl") return samples_run(path);
  EvaluationRun run;
  run.file = find_results_file(path);
  run.results = read_results(run.file);
  const Json name = run.results.value("model_name", Json());
  if (name.is_string()) run.model = name.get<std::string>();
  for (const auto& [task, values] : run.results["results"].items()) read_task(values, task, run);
  return run;
}

}  // namespace quern
