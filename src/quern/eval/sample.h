// One question of an evaluation, from its row to its scores: what the parts of eval/ hand on.
// Must never hold logic.
// Proved by tests/eval/evaluator_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "quern/base/json.h"

namespace quern {

// How likely a text is behind a prompt.
struct Loglikelihood {
  double value = 0;        // sum of the natural logarithms of its tokens' probabilities
  bool is_greedy = false;  // each token is the most likely one
};

// The tokens of a prompt and of the text that is scored behind it.
struct LikelihoodTokens {
  std::vector<std::int32_t> tokens;  // not empty
  std::size_t context = 0;           // how many of them are the prompt's, at least 1
};

// A text that is scored, and the prompt that it stands behind.
struct Continuation {
  std::string prompt;
  std::string text;
};

struct EvaluatedSample {
  std::size_t doc_id = 0;
  Json doc;
  Json target;  // text, the index of a choice, or a list of texts
  Json prompt;  // messages, or text; that of the first choice when each has its own
  Json gold;    // multiple_choice: the right choice, by index or text, or a list of such
  std::vector<std::string> choices;        // multiple_choice
  std::vector<Continuation> scored;        // empty for generate_until
  std::vector<std::string> answers;        // generate_until: one a repeat
  std::vector<Loglikelihood> likelihoods;  // one an element of `scored`
  std::vector<Json> filtered;              // generate_until: one a filter
  std::vector<std::vector<Json>> scores;   // [filter][metric]; null: not scored
};

}  // namespace quern
