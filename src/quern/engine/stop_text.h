// Finds stop strings in text that arrives in pieces, and says which text may be shown meanwhile.
// Must never show text that a stop string could still cut, nor match inside reasoning.
// Proved by tests/engine/stop_text_test.cc (every text cut at every place).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "quern/engine/request.h"

namespace quern::engine {

// The match that completes first wins, ties go to the order of the list (vLLM
// v1/engine/detokenizer.py, check_stop_strings). Text is cut before the match, or behind it with
// include_stop_str_in_output.
//
// Reasoning: text before the start marker is answer, then reasoning up to the end marker, then
// answer to the end. A match lies in one piece of answer; a place that could turn out to be the
// start marker is decided when the marker is complete or impossible.
class StopText {
 public:
  StopText(const SamplingParams& params, const ReasoningFormat& reasoning);
  StopText(const StopText&) = delete;
  StopText& operator=(const StopText&) = delete;

  // Adds text and returns what may be shown. With `may_stop` false no stop string can complete in
  // this piece (min_tokens).
  std::string push(std::string_view piece, bool may_stop);
  // The end of the text: everything that was held back, unless a stop string is found in it.
  std::string finish();

  // The stop string found, or nullptr. Nothing may be pushed after that.
  const std::string* matched() const { return matched_; }

 private:
  enum class Phase { kBeforeReasoning, kReasoning, kAnswer };

  void scan(bool final);
  bool find_stop(std::size_t end);
  void enter(Phase phase, std::size_t position);
  std::size_t first_undecided() const;
  std::string take(bool final);
  void trim();

  std::vector<std::string> stop_;
  bool include_stop_;
  std::string start_marker_, end_marker_;
  std::size_t longest_ = 0;
  Phase phase_ = Phase::kAnswer;

  // Offsets into buffer_, which is cut at the front now and then.
  std::string buffer_;
  std::size_t shown_ = 0;    // text before it was returned
  std::size_t segment_ = 0;  // a match starts here or later
  std::size_t scanned_ = 0;  // a match or marker ends behind this
  std::size_t floor_ = 0;    // a match ends behind this (min_tokens)
  std::size_t cut_ = 0;      // end of the text when matched
  const std::string* matched_ = nullptr;
};

}  // namespace quern::engine
