// See filters.h. Source: lm-evaluation-harness lm_eval/filters/extraction.py, selection.py,
// transformation.py.
#include "quern/eval/filters.h"

#include <optional>

#include "quern/base/error.h"
#include "quern/eval/python_text.h"
#include "quern/text/unicode.h"

namespace quern {
namespace {

// match[group_select] of re.findall: the only group, or the first of several that is not empty.
// Empty optional: no match. Outer value "" with several groups all empty stands for itself.
struct Selected {
  std::string text;
  bool all_groups_empty = false;  // several groups, none with text
};
std::optional<Selected> select_match(const PythonRegex& regex, const std::string& text,
                                     std::int64_t group_select) {
  const auto matches = regex.find_all(text);
  if (matches.empty()) return std::nullopt;
  const auto count = static_cast<std::int64_t>(matches.size());
  const std::int64_t index = group_select < 0 ? count + group_select : group_select;
  if (index < 0 || index >= count) {
    throw Error("group_select {} of {} matches is out of range", group_select, count);
  }
  const std::vector<std::string>& groups = matches[static_cast<std::size_t>(index)];
  if (groups.size() == 1) return Selected{std::string(python_strip(groups[0])), false};
  for (const std::string& group : groups) {
    if (!group.empty()) return Selected{std::string(python_strip(group)), false};
  }
  return Selected{"", true};
}

std::string apply_regex(const FilterStep& spec, const PythonRegex& regex, const std::string& text) {
  const auto match = select_match(regex, text, spec.group_select);
  if (!match) return spec.fallback;
  return match->all_groups_empty ? std::string(python_strip(spec.fallback)) : match->text;
}

// re.escape and what PCRE2 needs beyond it: every ASCII character that is no letter, digit or "_".
std::string escape_regex(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || c == '_' || (c >= '0' && c <= '9') ||
                       (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!plain) out += '\\';
    out += c;
  }
  return out;
}

// The choices of a question as this filter compares them.
class Choices {
 public:
  Choices(const Json& doc, const FilterStep& spec, const std::vector<PythonRegex>& patterns)
      : spec_(spec), patterns_(patterns) {
    const auto list = doc.find("choices");
    if (list == doc.end() || !list->is_array() || list->empty()) {
      throw Error("multi_choice_regex needs a column 'choices' that is a list of text");
    }
    for (const Json& choice : *list) {
      if (!choice.is_string() || texts_.size() >= 26)
        throw Error("multi_choice_regex needs at most 26 choices of text");
      texts_.push_back(without_ignored(std::string(python_strip(choice.get<std::string>()))));
    }
  }

  // The letter of the choice that `answer` quotes, else of ": A", else nothing. As in the harness
  // the last of two equal choices wins.
  std::string find(const std::string& answer) const {
    std::string any_text;
    std::string any_letter;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      any_text += (i == 0 ? "" : "|") + escape_regex(texts_[i]);
      any_letter += (i == 0 ? "" : "|") + std::string(1, letter(i));
    }
    if (const auto quoted =
            select_match(PythonRegex(any_text), without_ignored(answer), spec_.group_select);
        quoted && !quoted->text.empty()) {
      for (std::size_t i = texts_.size(); i-- > 0;) {
        if (texts_[i] == quoted->text) return in_parentheses(i);
      }
      return quoted->text;
    }
    const auto lettered =
        select_match(PythonRegex(":[\\s]*(" + any_letter + ")"), answer, spec_.group_select);
    return lettered && !lettered->text.empty()
               ? in_parentheses(static_cast<std::size_t>(lettered->text[0] - 'A'))
               : std::string();
  }

 private:
  static char letter(std::size_t index) { return static_cast<char>('A' + index); }
  static std::string in_parentheses(std::size_t index) { return {'(', letter(index), ')'}; }

  std::string without_ignored(std::string text) const {
    static const PythonRegex punctuation("\\p{P}");
    for (std::size_t i = 1; i < patterns_.size(); ++i) text = patterns_[i].remove_all(text);
    if (spec_.ignore.ignore_case) text = to_lower(text);
    if (spec_.ignore.ignore_punctuation) text = punctuation.remove_all(text);
    return text;
  }

  const FilterStep& spec_;
  const std::vector<PythonRegex>& patterns_;
  std::vector<std::string> texts_;
};

std::string apply_multi_choice(const FilterStep& spec, const std::vector<PythonRegex>& patterns,
                               const std::string& text, const Json& doc) {
  const auto match = select_match(patterns[0], text, spec.group_select);
  if (match && !match->text.empty()) return match->text;
  std::string found = Choices(doc, spec, patterns).find(text);
  return found.empty() ? spec.fallback : found;
}

std::vector<Json> majority(const std::vector<Json>& values) {
  // Counter.most_common(1): the most frequent, the first of those that are equally frequent.
  const Json* best = nullptr;
  std::size_t most = 0;
  for (const Json& value : values) {
    std::size_t count = 0;
    for (const Json& other : values) count += other == value ? 1 : 0;
    if (count > most) {
      most = count;
      best = &value;
    }
  }
  return {*best};
}

}  // namespace

AnswerFilter::AnswerFilter(const FilterSpec& spec) : name_(spec.name) {
  for (const FilterStep& step : spec.steps) {
    Step compiled{step, {}};
    if (step.kind == FilterKind::kRegex || step.kind == FilterKind::kMultiChoiceRegex) {
      compiled.patterns.emplace_back(step.pattern);
      for (const std::string& pattern : step.ignore.regexes_to_ignore)
        compiled.patterns.emplace_back(pattern);
    }
    steps_.push_back(std::move(compiled));
  }
}

Json AnswerFilter::apply_text(const Step& step, const Json& value, const Json& doc) {
  // Behind a map a value may be no text: the regex filters take that as "".
  const bool reads_any = step.spec.kind == FilterKind::kRegex ||
                         step.spec.kind == FilterKind::kMultiChoiceRegex ||
                         step.spec.kind == FilterKind::kMap;
  if (!value.is_string() && !reads_any)
    throw Error("a filter behind map needs text, found {}", value.dump());
  const std::string text = value.is_string() ? value.get<std::string>() : std::string();
  switch (step.spec.kind) {
    case FilterKind::kRegex:
      return apply_regex(step.spec, step.patterns[0], text);
    case FilterKind::kMultiChoiceRegex:
      return apply_multi_choice(step.spec, step.patterns, text, doc);
    case FilterKind::kRemoveWhitespace:
      return std::string(python_strip(text));
    case FilterKind::kLowercase:
      return to_lower(text);
    case FilterKind::kUppercase:
      return to_upper(text);
    case FilterKind::kMap: {
      const auto found = value.is_string() ? step.spec.mapping.find(text) : step.spec.mapping.end();
      return found == step.spec.mapping.end() ? step.spec.default_value : *found;
    }
    default:
      QUERN_CHECK(false);
  }
}

Json AnswerFilter::apply(const std::vector<std::string>& answers, const Json& doc) const {
  std::vector<Json> values(answers.begin(), answers.end());
  for (const Step& step : steps_) {
    switch (step.spec.kind) {
      case FilterKind::kTakeFirst:
        return values.front();
      case FilterKind::kTakeFirstK:
        if (values.size() < step.spec.k) {
          throw Error("filter '{}': take_first_k wants {} answers, the task asks {} (repeats)",
                      name_, step.spec.k, values.size());
        }
        values.resize(step.spec.k);
        break;
      case FilterKind::kMajorityVote:
        values = majority(values);
        break;
      default:
        for (Json& value : values) value = apply_text(step, value, doc);
    }
  }
  return values.front();
}

}  // namespace quern
