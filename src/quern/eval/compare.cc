// See compare.h. Layout of the files: lm-evaluation-harness lm_eval/loggers/evaluation_tracker.py.
#include "quern/eval/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/eval/dataset.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/results_table.h"

namespace quern {
namespace {

constexpr std::size_t kMaxResultsBytes = 256 << 20;
constexpr JsonLimits kLimits{.max_depth = 128, .reject_duplicate_keys = false};

// Of one filter: document -> its hash and score.
struct ScoredDocument {
  std::string hash;
  double score = 0;
};
using Documents = std::map<std::int64_t, ScoredDocument>;

Json read_results(const std::filesystem::path& path) {
  Json results = parse_json(read_file(path, kMaxResultsBytes), path.string(), kLimits);
  if (!results.is_object() || !results.contains("results") || !results["results"].is_object()) {
    throw Error("{}: no results file (key 'results' is missing)", path.string());
  }
  return results;
}

// "results_2026-08-21T19-56-54.123456.json" and task "gsm8k" -> "samples_gsm8k_2026-....jsonl".
std::filesystem::path samples_path(const std::filesystem::path& results, const std::string& task) {
  static const PythonRegex date("([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9-]+(?:\\.[0-9]+)?)\\.json\\z");
  const auto found = date.find_all(results.filename().string());
  if (found.empty()) return {};
  return results.parent_path() / fmt::format("samples_{}_{}.jsonl", task, found[0][0]);
}

// Documents by filter; the reason why there are none goes to `reason`.
std::map<std::string, Documents> read_samples(const std::filesystem::path& results,
                                              const std::string& task, const std::string& metric,
                                              std::string& reason) {
  const std::filesystem::path path = samples_path(results, task);
  if (path.empty() || !std::filesystem::is_regular_file(path)) {
    reason = fmt::format("no samples file beside {}", results.filename().string());
    return {};
  }
  std::map<std::string, Documents> by_filter;
  for (const Json& line : read_jsonl(path)) {
    const auto field = [&](const std::string& key) -> const Json& {
      if (!line.contains(key)) throw Error("{}: a sample has no '{}'", path.string(), key);
      return line[key];
    };
    const Json& id = field("doc_id");
    const Json& filter = field("filter");
    const Json& hash = field("doc_hash");
    const Json& score = field(metric);
    if (!id.is_number_integer() || !filter.is_string() || !hash.is_string() || !score.is_number()) {
      throw Error("{}: a sample has a key of the wrong type", path.string());
    }
    const ScoredDocument document{hash.get<std::string>(), score.get<double>()};
    if (!by_filter[filter.get<std::string>()].emplace(id.get<std::int64_t>(), document).second) {
      throw Error("{}: document {} occurs twice under filter {}", path.string(), id.dump(),
                  filter.dump());
    }
  }
  return by_filter;
}

void compare_paired(const Documents& base, const Documents& quantized, ComparedScore& out) {
  std::vector<double> base_scores;
  std::vector<double> quantized_scores;
  for (const auto& [id, document] : base) {
    const auto other = quantized.find(id);
    if (other == quantized.end() || other->second.hash != document.hash) {
      out.unpaired_reason = fmt::format("document {} differs between the two runs", id);
      return;
    }
    base_scores.push_back(document.score);
    quantized_scores.push_back(other->second.score);
  }
  if (base.empty() || base.size() != quantized.size()) {
    out.unpaired_reason = fmt::format("{} and {} documents", base.size(), quantized.size());
    return;
  }
  out.paired = true;
  out.counts = paired_counts(base_scores, quantized_scores);
  out.interval = out.counts ? paired_recovery_interval(*out.counts)
                            : paired_recovery_interval(base_scores, quantized_scores);
}

MeanScore mean_score(const Json& task, const std::string& metric, const std::string& filter) {
  MeanScore score{task[metric + "," + filter].get<double>(), std::nullopt};
  const auto error = task.find(metric + "_stderr," + filter);
  if (error != task.end() && error->is_number()) score.stderr_of_mean = error->get<double>();
  return score;
}

std::string percent(double share) { return fmt::format("{:.2f}", 100 * share); }

std::string interval_text(const std::optional<Interval>& interval) {
  return interval ? fmt::format("{} to {}", percent(interval->low), percent(interval->high))
                  : "n/a";
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

std::vector<ComparedScore> compare_results(const std::filesystem::path& base,
                                           const std::filesystem::path& quantized) {
  const Json base_file = read_results(base);
  const Json quantized_file = read_results(quantized);
  std::vector<ComparedScore> scores;
  for (const auto& [task, values] : base_file["results"].items()) {
    if (!quantized_file["results"].contains(task)) {
      spdlog::warn("task {} is only in {}", task, base.string());
      continue;
    }
    const Json& other = quantized_file["results"][task];
    for (const auto& [key, value] : values.items()) {
      const std::size_t comma = key.find(',');
      if (comma == std::string::npos || !value.is_number()) continue;
      const std::string metric = key.substr(0, comma);
      if (metric.ends_with("_stderr") || !other.contains(key) || !other[key].is_number()) continue;
      ComparedScore score;
      score.task = task;
      score.metric = metric;
      score.filter = key.substr(comma + 1);
      score.base = mean_score(values, metric, score.filter);
      score.quantized = mean_score(other, metric, score.filter);
      if (score.base.value > 0) score.recovery = score.quantized.value / score.base.value;
      const auto base_samples = read_samples(base, task, metric, score.unpaired_reason);
      const auto quantized_samples = read_samples(quantized, task, metric, score.unpaired_reason);
      if (base_samples.contains(score.filter) && quantized_samples.contains(score.filter)) {
        compare_paired(base_samples.at(score.filter), quantized_samples.at(score.filter), score);
      }
      if (!score.paired) score.interval = unpaired_recovery_interval(score.base, score.quantized);
      scores.push_back(std::move(score));
    }
  }
  if (scores.empty())
    throw Error("{} and {} have no score in common", base.string(), quantized.string());
  return scores;
}

std::string comparison_table(const std::vector<ComparedScore>& scores) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::vector<std::string>> pairs;
  std::string notes;
  for (const ComparedScore& score : scores) {
    rows.push_back({score.task, score.filter, percent(score.base.value),
                    percent(score.quantized.value),
                    fmt::format("{:+.2f}", 100 * (score.quantized.value - score.base.value)),
                    score.recovery ? percent(*score.recovery) : "n/a",
                    interval_text(score.interval), score.paired ? "paired" : "unpaired"});
    if (score.counts) {
      const PairedCounts& c = *score.counts;
      pairs.push_back({score.task, score.filter, std::to_string(c.both_right),
                       std::to_string(c.only_base), std::to_string(c.only_quantized),
                       std::to_string(c.both_wrong), fmt::format("{:.4f}", mcnemar_p_value(c))});
    }
    if (!score.paired) {
      notes +=
          fmt::format("{} {}: unpaired, {}\n", score.task, score.filter, score.unpaired_reason);
    }
  }
  std::string text = markdown_table({"Task", "Filter", "Base %", "Quantized %", "Difference",
                                     "Recovery %", "95 % interval", "Questions"},
                                    rows);
  if (!pairs.empty()) {
    text += "\n" + markdown_table({"Task", "Filter", "Both right", "Only base", "Only quantized",
                                   "Both wrong", "McNemar p"},
                                  pairs);
  }
  return text + (notes.empty() ? "" : "\n" + notes);
}

Json comparison_json(const std::vector<ComparedScore>& scores) {
  Json out = Json::array();
  const auto number_or_null = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  };
  for (const ComparedScore& score : scores) {
    Json entry{{"task", score.task},
               {"filter", score.filter},
               {"metric", score.metric},
               {"base", score.base.value},
               {"base_stderr", number_or_null(score.base.stderr_of_mean)},
               {"quantized", score.quantized.value},
               {"quantized_stderr", number_or_null(score.quantized.stderr_of_mean)},
               {"difference", score.quantized.value - score.base.value},
               {"recovery", number_or_null(score.recovery)},
               {"recovery_95", nullptr},
               {"paired", score.paired}};
    if (score.interval)
      entry["recovery_95"] = Json::array({score.interval->low, score.interval->high});
    if (!score.paired) entry["unpaired_reason"] = score.unpaired_reason;
    if (score.counts) {
      entry["both_right"] = score.counts->both_right;
      entry["only_base"] = score.counts->only_base;
      entry["only_quantized"] = score.counts->only_quantized;
      entry["both_wrong"] = score.counts->both_wrong;
      entry["mcnemar_p"] = mcnemar_p_value(*score.counts);
    }
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace quern
