// See prompt.h. Source: lm-evaluation-harness lm_eval/api/task.py (fewshot_context, build_qa_turn),
// lm_eval/api/utils.py (maybe_delimit, multiturn_to_singleturn).
#include "quern/eval/prompt.h"

#include <utility>

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

Json message(const char* role, std::string content) {
  return Json{{"role", role}, {"content", std::move(content)}};
}

}  // namespace

PromptBuilder::PromptBuilder(const EvalTask& task, const std::vector<Json>& fewshot_pool,
                             PromptOptions options)
    : task_(task),
      pool_(fewshot_pool),
      options_(std::move(options)),
      sampler_(task.fewshot_kind, fewshot_pool, options_.fewshot_seed),
      exclude_row_(task.fewshot_split == task.test_split) {}

Json PromptBuilder::next(const Json& row) {
  Json messages = Json::array();
  std::string system = join_delimited(options_.system_instruction, task_.description.render(row),
                                      task_.fewshot_delimiter);
  if (!system.empty()) messages.push_back(message("system", std::move(system)));

  std::string text;  // the single user message, when not multi-turn
  for (const std::size_t i : sampler_.next(options_.num_fewshot, exclude_row_ ? &row : nullptr)) {
    std::string question = task_.fewshot_text.render(pool_[i]);
    std::string answer = task_.fewshot_target.render(pool_[i]);
    if (options_.multiturn) {
      messages.push_back(message("user", std::move(question)));
      if (!answer.empty()) messages.push_back(message("assistant", std::move(answer)));
    } else {
      text += question;
      if (!answer.empty()) text += task_.target_delimiter + answer + task_.fewshot_delimiter;
    }
  }
  messages.push_back(message("user", text + task_.doc_to_text.render(row)));
  return messages;
}

}  // namespace quern
