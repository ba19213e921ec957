// See prompt.h. Source: lm-evaluation-harness lm_eval/api/task.py (fewshot_context, build_qa_turn),
// lm_eval/api/utils.py (maybe_delimit, requires_delimiter, multiturn_to_singleturn).
#include "quern/eval/prompt.h"

#include <utility>

#include "quern/base/error.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

// The delimiter is left out where one side brings white space to the joint.
std::string join_delimited(const std::string& prefix, const std::string& suffix,
                           const std::string& delimiter) {
  if (prefix.empty() || suffix.empty()) return prefix + suffix;
  const bool spaced = ends_with_space(prefix) || starts_with_space(suffix);
  return prefix + (spaced ? "" : delimiter) + suffix;
}

// What stands between a question and the beginning of its answer.
std::string before_prefix(const std::string& question, const std::string& prefix,
                          const std::string& delimiter) {
  const bool spaced = question.empty() || ends_with_space(question) || starts_with_space(prefix);
  return spaced ? "" : delimiter;
}

Json message(const char* role, const std::string& content) {
  return Json{{"role", role}, {"content", content}};
}

// An example's answer: text, the text of the choice that it numbers, the first of several.
std::string answer_text(const EvalTask& task, const Json& example) {
  const Json target = task.fewshot_target.value(example);
  if (target.is_string()) return target.get<std::string>();
  if (target.is_number_integer() && task.fewshot_choice) {
    const auto choices = task.fewshot_choice->choices(example);
    auto index = target.get<std::int64_t>();
    if (index < 0) index += static_cast<std::int64_t>(choices.size());
    if (index >= 0 && index < static_cast<std::int64_t>(choices.size()))
      return choices[static_cast<std::size_t>(index)];
  }
  if (target.is_array() && !target.empty() && target[0].is_string())
    return target[0].get<std::string>();
  throw Error("the answer of an example must be text or the index of a choice, found {}",
              target.dump());
}

// The question of an example whose choices are questions: the right one.
std::string question_of_choices(const EvalTask& task, const Json& example) {
  const auto index = task.fewshot_text.index(example);
  const auto choices = task.fewshot_choice->choices(example);
  if (!index || *index >= choices.size())
    throw Error("doc_to_text of an example is no index of its {} choices", choices.size());
  return choices[*index];
}

std::string prefix_text(const std::optional<TaskField>& field, const Json& row) {
  return field ? field->render(row) : std::string();
}

}  // namespace

PromptBuilder::PromptBuilder(const EvalTask& task, const std::vector<Json>& fewshot_pool,
                             PromptOptions options)
    : task_(task),
      pool_(fewshot_pool),
      options_(std::move(options)),
      sampler_(task.fewshot_kind, fewshot_pool, options_.fewshot_seed) {}

void PromptBuilder::add_example(const Json& example, std::vector<Turn>& turns) const {
  const std::string question = options_.choices_are_questions ? question_of_choices(task_, example)
                                                              : task_.fewshot_text.render(example);
  const std::string answer = answer_text(task_, example);
  const std::string prefix = prefix_text(task_.fewshot_gen_prefix, example);
  const std::string& delimiter = task_.example_target_delimiter;
  std::string between = answer.empty() ? "" : delimiter;
  if (!prefix.empty()) between = before_prefix(question, prefix, delimiter);
  turns.push_back({"user", question, between});
  if (!answer.empty()) {
    turns.push_back({"assistant", join_delimited(prefix, answer, " "), task_.example_delimiter});
  } else if (!prefix.empty()) {
    turns.push_back({"assistant", prefix, ""});
  }
}

void PromptBuilder::add_question(const Json& row, const std::string& question,
                                 const std::string& delimiter, std::vector<Turn>& turns) const {
  const std::string prefix = prefix_text(task_.gen_prefix, row);
  if (prefix.empty()) {
    turns.push_back({"user", question, ""});
  } else {
    turns.push_back({"user", question, before_prefix(question, prefix, delimiter)});
    turns.push_back({"assistant", prefix, ""});
  }
}

Json PromptBuilder::messages(const std::vector<Turn>& turns) {
  Json out = Json::array();
  for (const Turn& turn : turns) out.push_back(message(turn.role, turn.content));
  return out;
}

// System message, all else in one user message, the beginning of the answer.
Json PromptBuilder::single_turn(std::vector<Turn> turns) {
  Json out = Json::array();
  std::size_t first = 0;
  std::size_t last = turns.size();
  if (std::string_view(turns.front().role) == "system") {
    out.push_back(message("system", turns.front().content));
    first = 1;
  }
  const bool prefilled = std::string_view(turns.back().role) == "assistant";
  if (prefilled) --last;
  std::string text;
  for (std::size_t i = first; i < last; ++i) {
    text += turns[i].content + (i + 1 == last ? "" : turns[i].delimiter);
  }
  out.push_back(message("user", text));
  if (prefilled) out.push_back(message("assistant", turns.back().content));
  return out;
}

std::vector<PromptBuilder::Turn> PromptBuilder::system_and_examples(const Json& row) {
  std::vector<Turn> turns;
  std::string system = join_delimited(options_.system_instruction, task_.description.render(row),
                                      task_.fewshot_delimiter);
  if (!system.empty()) turns.push_back({"system", std::move(system), ""});
  for (const std::size_t i :
       sampler_.next(options_.num_fewshot, task_.excludes_question ? &row : nullptr)) {
    add_example(pool_[i], turns);
  }
  return turns;
}

Json PromptBuilder::rendered(std::vector<Turn> turns) const {
  if (options_.chat) return options_.multiturn ? messages(turns) : single_turn(std::move(turns));
  std::string text;
  for (const Turn& turn : turns) text += turn.content + turn.delimiter;
  return text;
}

Json PromptBuilder::next(const Json& row) {
  std::vector<Turn> turns = system_and_examples(row);
  add_question(row, task_.doc_to_text.render(row), task_.target_delimiter, turns);
  return rendered(std::move(turns));
}

std::vector<Json> PromptBuilder::next(const Json& row, const std::vector<std::string>& questions) {
  const std::vector<Turn> before = system_and_examples(row);
  std::vector<Json> prompts;
  for (const std::string& question : questions) {
    std::vector<Turn> turns = before;
    add_question(row, question, "", turns);
    prompts.push_back(rendered(std::move(turns)));
  }
  return prompts;
}

}  // namespace quern
