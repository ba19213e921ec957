// One question of an evaluation, from its row to its scores: what the parts of eval/ hand on.
// Must never hold logic.
// Proved by tests/eval/evaluator_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"

namespace quern {

// How likely a text is behind a prompt.
struct Loglikelihood {
  double value = 0;        // sum of the natural logarithms of its tokens' probabilities
  bool is_greedy = false;  // each token is the most likely one
};

struct EvaluatedSample {
  std::size_t doc_id = 0;
  Json doc;
  Json target;                             // text, the index of a choice, or a list of texts
  Json prompt;                             // messages, or text
  std::vector<std::string> choices;        // multiple_choice
  std::vector<std::string> continuations;  // what is scored behind the prompt: one, or one a choice
  std::vector<std::string> answers;        // generate_until: one a repeat
  std::vector<Loglikelihood> likelihoods;  // one a continuation
  std::vector<Json> filtered;              // generate_until: one a filter
  std::vector<std::vector<Json>> scores;   // [filter][metric]; null: not scored
};

}  // namespace quern
