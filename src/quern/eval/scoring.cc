// See scoring.h. Source: lm-evaluation-harness lm_eval/filters/extraction.py (RegexFilter),
// lm_eval/api/metrics.py (exact_match_hf_evaluate, mean_stderr).
#include "quern/eval/scoring.h"

#include <cmath>

#include "quern/base/error.h"
#include "quern/eval/python_text.h"
#include "quern/text/unicode.h"

namespace quern {
namespace {

constexpr std::string_view kPunctuation =
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";           // string.punctuation
constexpr std::string_view kDigits = "0123456789";  // string.digits

void remove_characters(std::string& text, std::string_view characters) {
  std::erase_if(text, [&](char c) { return characters.find(c) != std::string_view::npos; });
}

}  // namespace

AnswerFilter::AnswerFilter(const FilterSpec& spec) : name_(spec.name) {
  for (const RegexFilterStep& step : spec.steps) {
    steps_.push_back({PythonRegex(step.pattern), step.group_select, step.fallback});
  }
}

std::string AnswerFilter::apply_step(const Step& step, const std::string& answer) {
  const auto matches = step.regex.find_all(answer);
  if (matches.empty()) return step.fallback;
  const auto count = static_cast<std::int64_t>(matches.size());
  const std::int64_t index = step.group_select < 0 ? count + step.group_select : step.group_select;
  if (index < 0 || index >= count) {
    throw Error("group_select {} of {} matches is out of range", step.group_select, count);
  }
  const std::vector<std::string>& groups = matches[static_cast<std::size_t>(index)];
  if (groups.size() == 1) return std::string(python_strip(groups[0]));
  // Several groups: the first that is not empty.
  for (const std::string& group : groups) {
    if (!group.empty()) return std::string(python_strip(group));
  }
  return std::string(python_strip(step.fallback));
}

std::string AnswerFilter::apply(std::string answer) const {
  for (const Step& step : steps_) answer = apply_step(step, answer);
  return answer;
}

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

double mean(const std::vector<double>& scores) {
  double sum = 0;
  for (const double score : scores) sum += score;
  return sum / static_cast<double>(scores.size());
}

std::optional<double> mean_stderr(const std::vector<double>& scores) {
  if (scores.size() < 2) return std::nullopt;
  const double centre = mean(scores);
  double sum = 0;
  for (const double score : scores) sum += (score - centre) * (score - centre);
  const auto n = static_cast<double>(scores.size());
  return std::sqrt(sum / (n - 1)) / std::sqrt(n);
}

}  // namespace quern
