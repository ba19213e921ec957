// See compare_report.h.
#include "quern/eval/compare_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "quern/eval/markdown.h"

namespace quern {
namespace {

// A column "Metric" only where it says something.
bool several_metrics(const Comparison& comparison) {
  return std::any_of(comparison.scores.begin(), comparison.scores.end(), [&](const auto& score) {
    return score.metric != comparison.scores.front().metric;
  });
}

void append_questions(const ComparedScore& score, bool won, std::string& out) {
  for (const PairedQuestion& question : score.questions) {
    const bool base_better = question.base.score > question.quantized.score;
    const bool differs = question.base.score != question.quantized.score;
    if (!differs || base_better == won) continue;
    out +=
        fmt::format("\n#### Document {}\n\n{}\nreference\n\n{}\n", question.doc_id,
                    markdown_fence(question.base.question), markdown_fence(question.base.target));
    out +=
        fmt::format("base (score {:g})\n\n{}\nextracted\n\n{}\n", question.base.score,
                    markdown_fence(question.base.answer), markdown_fence(question.base.extracted));
    out += fmt::format("quantized (score {:g})\n\n{}\nextracted\n\n{}\n", question.quantized.score,
                       markdown_fence(question.quantized.answer),
                       markdown_fence(question.quantized.extracted));
  }
}

}  // namespace

std::string interval_text(const std::optional<Interval>& interval) {
  return interval ? fmt::format("{} to {}", percent(interval->low), percent(interval->high))
                  : "n/a";
}

std::string comparison_table(const Comparison& comparison) {
  const bool with_metric = several_metrics(comparison);
  std::vector<std::vector<std::string>> rows;
  std::vector<std::vector<std::string>> pairs;
  std::string notes;
  for (const ComparedScore& score : comparison.scores) {
    const std::string name =
        with_metric ? fmt::format("{} {}", score.metric, score.filter) : score.filter;
    const auto& bootstrap = score.bootstrap;
    rows.push_back({score.task, name, percent(score.base.value), percent(score.quantized.value),
                    fmt::format("{:+.2f}", 100 * (score.quantized.value - score.base.value)),
                    bootstrap ? interval_text(bootstrap->difference) : "n/a",
                    score.recovery ? percent(*score.recovery) : "n/a",
                    interval_text(score.interval), score.paired ? "paired" : "unpaired"});
    if (score.counts) {
      const PairedCounts& c = *score.counts;
      pairs.push_back({score.task, name, std::to_string(c.both_right), std::to_string(c.only_base),
                       std::to_string(c.only_quantized), std::to_string(c.both_wrong),
                       fmt::format("{:.4f}", mcnemar_p_value(c))});
    }
    if (!score.paired) {
      notes += fmt::format("{} {}: unpaired, {}\n", score.task, name, score.unpaired_reason);
    }
  }
  std::string text = markdown_table({"Task", "Filter", "Base %", "Quantized %", "Difference",
                                     "95 % bootstrap", "Recovery %", "95 % interval", "Questions"},
                                    rows);
  if (!pairs.empty()) {
    text += "\n" + markdown_table({"Task", "Filter", "Both right", "Only base", "Only quantized",
                                   "Both wrong", "McNemar p"},
                                  pairs);
  }
  return text + (notes.empty() ? "" : "\n" + notes);
}

Json comparison_json(const Comparison& comparison) {
  Json out = Json::array();
  const auto number_or_null = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  };
  const auto pair_or_null = [](const std::optional<Interval>& interval) {
    return interval ? Json::array({interval->low, interval->high}) : Json(nullptr);
  };
  for (const ComparedScore& score : comparison.scores) {
    Json entry{{"task", score.task},
               {"filter", score.filter},
               {"metric", score.metric},
               {"base", score.base.value},
               {"base_stderr", number_or_null(score.base.stderr_of_mean)},
               {"quantized", score.quantized.value},
               {"quantized_stderr", number_or_null(score.quantized.stderr_of_mean)},
               {"difference", score.quantized.value - score.base.value},
               {"recovery", number_or_null(score.recovery)},
               {"recovery_95", pair_or_null(score.interval)},
               {"paired", score.paired}};
    if (!score.paired) entry["unpaired_reason"] = score.unpaired_reason;
    if (score.bootstrap) {
      entry["bootstrap_difference_95"] = pair_or_null(score.bootstrap->difference);
      entry["bootstrap_recovery_95"] = pair_or_null(score.bootstrap->recovery);
      entry["bootstrap_resamples"] = score.bootstrap->resamples;
    }
    if (score.counts) {
      entry["both_right"] = score.counts->both_right;
      entry["only_base"] = score.counts->only_base;
      entry["only_quantized"] = score.counts->only_quantized;
      entry["both_wrong"] = score.counts->both_wrong;
      entry["mcnemar_p"] = mcnemar_p_value(*score.counts);
    }
    Json lost = Json::array();
    Json won = Json::array();
    for (const PairedQuestion& question : score.questions) {
      if (question.base.score > question.quantized.score) lost.push_back(question.doc_id);
      if (question.base.score < question.quantized.score) won.push_back(question.doc_id);
    }
    if (score.paired) {
      entry["lost"] = std::move(lost);
      entry["won"] = std::move(won);
    }
    out.push_back(std::move(entry));
  }
  return out;
}

std::string comparison_markdown(const Comparison& comparison) {
  std::string out = fmt::format(
      "# Comparison\n\nbase\n\n{}\nquantized\n\n{}\n{}", markdown_fence(comparison.base_name),
      markdown_fence(comparison.quantized_name), comparison_table(comparison));
  for (const ComparedScore& score : comparison.scores) {
    if (!score.paired) continue;
    for (const bool won : {false, true}) {
      std::string questions;
      append_questions(score, won, questions);
      out += fmt::format(
          "\n## {} {} {}: questions {}\n", score.task, score.metric, score.filter,
          won ? "won (only the quantized model is right)" : "lost (only the base model is right)");
      out += questions.empty() ? "\nnone\n" : questions;
    }
  }
  return out;
}

}  // namespace quern
