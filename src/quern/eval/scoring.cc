// See scoring.h. Source: lm-evaluation-harness lm_eval/api/metrics.py (exact_match_hf_evaluate,
// mean_stderr, bootstrap_stderr), lm_eval/api/task.py (process_results).
#include "quern/eval/scoring.h"

#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/python_random.h"
#include "quern/eval/python_text.h"
#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

constexpr std::string_view kPunctuation =
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";           // string.punctuation
constexpr std::string_view kDigits = "0123456789";  // string.digits

void remove_characters(std::string& text, std::string_view characters) {
  std::erase_if(text, [&](char c) { return characters.find(c) != std::string_view::npos; });
}

// Index of the first largest value (NumPy's argmax).
std::size_t argmax(const std::vector<double>& values) {
  return static_cast<std::size_t>(
      std::distance(values.begin(), std::max_element(values.begin(), values.end())));
}

// The right choice: an index, or the text of a choice; empty when it is none of them.
std::optional<std::size_t> choice_of(const Json& target, const EvaluatedSample& sample) {
  const std::size_t count = sample.choices.size();
  if (target.is_number_integer()) {
    // A negative index counts from the end when it is looked up, but equals no prediction.
    const auto index = target.get<std::int64_t>();
    if (index >= 0 && index < static_cast<std::int64_t>(count))
      return static_cast<std::size_t>(index);
  } else if (target.is_string()) {
    const auto found =
        std::find(sample.choices.begin(), sample.choices.end(), target.get<std::string>());
    if (found != sample.choices.end())
      return static_cast<std::size_t>(std::distance(sample.choices.begin(), found));
  }
  spdlog::warn("document {}: the target {} is none of its {} choices", sample.doc_id, target.dump(),
               count);
  return std::nullopt;
}

std::vector<std::size_t> gold_choices(const EvaluatedSample& sample) {
  std::vector<std::size_t> gold;
  const auto add = [&](const Json& target) {
    if (const auto index = choice_of(target, sample)) gold.push_back(*index);
  };
  if (sample.gold.is_array()) {
    for (const Json& target : sample.gold) add(target);
  } else {
    add(sample.gold);
  }
  return gold;
}

double sample_deviation(const std::vector<double>& values) {
  const double centre = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - centre) * (value - centre);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double perplexity(const std::vector<double>& values) { return std::exp(-mean(values)); }

// The harness's bootstrap: 100 chunks of 1,000 resamples, chunk i drawn by random.Random(i).
double perplexity_stderr(const std::vector<double>& values) {
  constexpr std::int64_t kChunks = 100;
  constexpr int kPerChunk = 1000;
  std::vector<double> found;
  std::vector<double> drawn(values.size());
  const auto n = static_cast<double>(values.size());
  for (std::int64_t chunk = 0; chunk < kChunks; ++chunk) {
    PythonRandom random(chunk);
    for (int i = 0; i < kPerChunk; ++i) {
      for (double& value : drawn) value = values[static_cast<std::size_t>(random.random() * n)];
      found.push_back(perplexity(drawn));
    }
  }
  return sample_deviation(found);
}

}  // namespace

ExactMatch::ExactMatch(const ExactMatchOptions& options) : options_(options) {
  for (const std::string& pattern : options.regexes_to_ignore) ignored_.emplace_back(pattern);
}

std::string ExactMatch::normalise(std::string_view text) const {
  // NumPy's fixed-width strings, which the harness compares, end at trailing NULs.
  const auto drop_trailing_nul = [](std::string& s) { s.resize(s.find_last_not_of('\0') + 1); };
  std::string out(text);
  drop_trailing_nul(out);
  for (const PythonRegex& regex : ignored_) {
    out = regex.remove_all(out);
    drop_trailing_nul(out);
  }
  if (options_.ignore_case) out = to_lower(out);
  if (options_.ignore_punctuation) remove_characters(out, kPunctuation);
  if (options_.ignore_numbers) remove_characters(out, kDigits);
  drop_trailing_nul(out);
  return out;
}

double ExactMatch::score(std::string_view prediction, std::string_view reference) const {
  return normalise(prediction) == normalise(reference) ? 1.0 : 0.0;
}

Scorer::Scorer(const EvalTask& task) : type_(task.output_type), metrics_(task.metrics) {
  for (const FilterSpec& filter : task.filters) filters_.emplace_back(filter);
  for (const MetricSpec& metric : task.metrics) matches_.emplace_back(metric.exact_match);
}

void Scorer::score(EvaluatedSample& sample) const {
  for (const AnswerFilter& filter : filters_) {
    if (type_ == OutputType::kGenerateUntil) {
      sample.filtered.push_back(filter.apply(sample.answers, sample.doc));
      sample.scores.push_back(score_answer(sample.filtered.back(), sample));
    } else {
      sample.scores.push_back(score_likelihoods(sample));
    }
  }
}

std::vector<Json> Scorer::score_answer(const Json& value, const EvaluatedSample& sample) const {
  std::vector<Json> scores;
  for (std::size_t m = 0; m < metrics_.size(); ++m) {
    if (metrics_[m].kind == MetricKind::kBypass) {
      scores.emplace_back(nullptr);
      continue;
    }
    if (value.is_null()) {
      throw Error("a filter gave null, which cannot be compared (give map a default_value)");
    }
    const std::string prediction = python_str(value);
    // An index of a choice stands for its text; of several targets any is right.
    std::vector<std::string> references;
    if (!sample.choices.empty() && !sample.target.is_array()) {
      const auto gold = choice_of(sample.target, sample);
      if (!gold) throw Error("the target {} is no index of a choice", sample.target.dump());
      references.push_back(sample.choices[*gold]);
    } else if (sample.target.is_array()) {
      for (const Json& target : sample.target) references.push_back(python_str(target));
    } else {
      references.push_back(python_str(sample.target));
    }
    const bool right = std::any_of(
        references.begin(), references.end(),
        [&](const std::string& reference) { return matches_[m].score(prediction, reference) > 0; });
    scores.emplace_back(right ? 1.0 : 0.0);
  }
  return scores;
}

std::vector<Json> Scorer::score_likelihoods(const EvaluatedSample& sample) const {
  if (type_ == OutputType::kMultipleChoice) return score_choices(sample);
  const Loglikelihood& found = sample.likelihoods.at(0);
  const std::string& text = sample.scored.at(0).text;
  std::vector<Json> scores;
  for (const MetricSpec& metric : metrics_) {
    switch (metric.kind) {
      case MetricKind::kPerplexity:
        scores.emplace_back(found.value);
        break;
      case MetricKind::kAcc:
        scores.emplace_back(found.is_greedy ? 1 : 0);
        break;
      case MetricKind::kWordPerplexity:
        scores.push_back(Json::array({found.value, python_words(text)}));
        break;
      case MetricKind::kBytePerplexity:
      case MetricKind::kBitsPerByte:
        scores.push_back(Json::array({found.value, text.size()}));
        break;
      default:  // bypass: no score at all
        break;
    }
  }
  return scores;
}

std::vector<Json> Scorer::score_choices(const EvaluatedSample& sample) const {
  std::vector<Json> scores;
  std::vector<double> plain;
  std::vector<double> by_characters;
  std::vector<double> by_bytes;
  std::vector<double> mutual;
  for (std::size_t i = 0; i < sample.choices.size(); ++i) {
    const std::string& choice = sample.choices[i];
    plain.push_back(sample.likelihoods.at(i).value);
    by_characters.push_back(plain.back() / static_cast<double>(count_utf8(choice)));
    by_bytes.push_back(plain.back() / static_cast<double>(choice.size()));
    const std::size_t alone = sample.choices.size() + i;  // without a question, when it is asked
    if (alone < sample.likelihoods.size())
      mutual.push_back(plain.back() - sample.likelihoods[alone].value);
  }
  const std::vector<std::size_t> gold = gold_choices(sample);
  const auto is_gold = [&](std::size_t choice) {
    return std::find(gold.begin(), gold.end(), choice) != gold.end() ? 1.0 : 0.0;
  };
  for (const MetricSpec& metric : metrics_) {
    switch (metric.kind) {
      case MetricKind::kAcc:
        scores.emplace_back(is_gold(argmax(plain)));
        break;
      case MetricKind::kAccNorm:
        scores.emplace_back(is_gold(argmax(by_characters)));
        break;
      case MetricKind::kAccBytes:
        scores.emplace_back(is_gold(argmax(by_bytes)));
        break;
      case MetricKind::kAccMutualInfo:
        scores.emplace_back(is_gold(argmax(mutual)));
        break;
      case MetricKind::kExactMatch:
        scores.emplace_back(
            std::any_of(gold.begin(), gold.end(),
                        [&](std::size_t i) { return sample.likelihoods[i].is_greedy; })
                ? 1
                : 0);
        break;
      default:  // bypass: no score at all
        break;
    }
  }
  return scores;
}

namespace {

// -sum(likelihood) / sum(length) of [likelihood, length] scores.
double nats_per_unit(const std::vector<Json>& scores) {
  double likelihood = 0;
  double length = 0;
  for (const Json& score : scores) {
    likelihood += score.at(0).get<double>();
    length += score.at(1).get<double>();
  }
  return -likelihood / length;
}

}  // namespace

Aggregate aggregate(MetricKind metric, const std::vector<Json>& scores) {
  if (metric == MetricKind::kBypass) return {999, std::nullopt};
  if (metric == MetricKind::kBitsPerByte)
    return {nats_per_unit(scores) / std::log(2.0), std::nullopt};
  if (metric == MetricKind::kWordPerplexity || metric == MetricKind::kBytePerplexity)
    return {std::exp(nats_per_unit(scores)), std::nullopt};
  std::vector<double> values;
  for (const Json& score : scores) values.push_back(score.get<double>());
  const bool several = values.size() > 1;
  if (metric == MetricKind::kPerplexity) {
    std::optional<double> error;
    if (several) error = perplexity_stderr(values);
    if (error && !std::isfinite(*error)) error.reset();  // the harness ends here with an overflow
    return {perplexity(values), error};
  }
  return {mean(values), mean_stderr(values)};
}

double mean(const std::vector<double>& scores) {
  double sum = 0;
  for (const double score : scores) sum += score;
  return sum / static_cast<double>(scores.size());
}

std::optional<double> mean_stderr(const std::vector<double>& scores) {
  if (scores.size() < 2) return std::nullopt;
  return sample_deviation(scores) / std::sqrt(static_cast<double>(scores.size()));
}

}  // namespace quern
