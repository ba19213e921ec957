// See compare.h.
#include "quern/eval/compare.h"

#include <fmt/format.h>

#include <algorithm>

#include "quern/base/error.h"
#include "quern/base/log.h"

namespace quern {
namespace {

// Fills `questions`; gives the reason when the two runs did not ask the same.
std::string pair_questions(const RunScore& base, const RunScore& quantized,
                           std::vector<PairedQuestion>& questions) {
  if (base.samples.empty() || quantized.samples.empty()) {
    return fmt::format("no samples of the {} model", base.samples.empty() ? "base" : "quantized");
  }
  if (base.samples.size() != quantized.samples.size()) {
    return fmt::format("{} and {} documents", base.samples.size(), quantized.samples.size());
  }
  for (const auto& [id, sample] : base.samples) {
    const auto other = quantized.samples.find(id);
    if (other == quantized.samples.end() || other->second.doc_hash != sample.doc_hash) {
      return fmt::format("document {} differs between the two runs", id);
    }
    questions.push_back({id, sample, other->second});
  }
  return "";
}

void compare_paired(ComparedScore& out) {
  std::vector<double> base;
  std::vector<double> quantized;
  for (const PairedQuestion& question : out.questions) {
    base.push_back(question.base.score);
    quantized.push_back(question.quantized.score);
  }
  out.paired = true;
  out.counts = paired_counts(base, quantized);
  out.interval = out.counts ? paired_recovery_interval(*out.counts)
                            : paired_recovery_interval(base, quantized);
  out.bootstrap = paired_bootstrap(base, quantized);
}

ComparedScore compare_score(const RunScore& base, const RunScore& quantized) {
  ComparedScore score;
  score.task = base.task;
  score.filter = base.filter;
  score.metric = base.metric;
  score.base = base.mean;
  score.quantized = quantized.mean;
  if (score.base.value > 0) score.recovery = score.quantized.value / score.base.value;
  score.unpaired_reason = pair_questions(base, quantized, score.questions);
  if (score.unpaired_reason.empty()) {
    compare_paired(score);
  } else {
    score.questions.clear();
    score.interval = unpaired_recovery_interval(score.base, score.quantized);
  }
  return score;
}

std::string name_of(const EvaluationRun& run) {
  return run.model.empty() ? run.file.filename().string() : run.model;
}

}  // namespace

Comparison compare_runs(const EvaluationRun& base, const EvaluationRun& quantized) {
  Comparison out{name_of(base), name_of(quantized), {}};
  for (const RunScore& score : base.scores) {
    const auto other = std::find_if(
        quantized.scores.begin(), quantized.scores.end(), [&](const RunScore& candidate) {
          return candidate.task == score.task && candidate.metric == score.metric &&
                 candidate.filter == score.filter;
        });
    if (other == quantized.scores.end()) {
      spdlog::warn("{} {},{} is only in {}", score.task, score.metric, score.filter,
                   base.file.string());
      continue;
    }
    out.scores.push_back(compare_score(score, *other));
  }
  if (out.scores.empty()) {
    throw Error("{} and {} have no score in common", base.file.string(), quantized.file.string());
  }
  return out;
}

}  // namespace quern
