// Cuts text into the pieces that BPE works on: Split, Digits and ByteLevel of tokenizer.json.
// Must never copy text, but for the prefix space some files ask for.
// Proved by tests/text/tokenizer_test.cc.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"
#include "quern/text/regex.h"

namespace quern {

class PreTokenizer {
 public:
  // From the `pre_tokenizer` value of tokenizer.json; its last step must be ByteLevel.
  explicit PreTokenizer(const Json& config);

  // True when a step removes what it matches: such text becomes no token.
  bool drops_text() const;

  // Working memory of one encode() call; the pieces it returns live as long as it does.
  class Run {
   public:
    explicit Run(const PreTokenizer& pre_tokenizer);
    // Pieces of `text` (valid UTF-8) in order, none of them empty. Valid until the next call.
    const std::vector<std::string_view>& split(std::string_view text);

   private:
    const PreTokenizer& pre_tokenizer_;
    std::vector<Regex::Matcher> matchers_;  // one a step
    std::deque<std::string> prefixed_;
    std::vector<std::string_view> pieces_;
    std::vector<std::string_view> next_;
  };

 private:
  // What becomes of a match (SplitDelimiterBehavior of `tokenizers`).
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    bool prefix_space = false;  // put a space in front of a piece that has none
    Regex regex;
    Behavior behavior;
    bool invert;
  };
  struct Cut {
    std::string_view text;
    bool is_match;
  };

  void add_step(const Json& config, bool last, int depth);
  void add_split(const Json& config);
  void add_byte_level(const Json& config);
  static Behavior behavior(const Json& name);
  static void cut(const Step& step, Regex::Matcher& matcher, std::string_view piece,
                  std::vector<std::string_view>& out);

  std::vector<Step> steps_;
};

}  // namespace quern
