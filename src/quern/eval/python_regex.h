// Regular expressions with the semantics of Python's re on str, through PCRE2.
// Must never run without a match limit: patterns come from task files, subjects from a model.
// Proved by tests/eval/scoring_test.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

// One compiled pattern; const use is thread-safe. The pattern language is PCRE2's, which reads the
// common part of Python's alike; newline is LF only and classes are Unicode, as in Python.
class PythonRegex {
 public:
  explicit PythonRegex(const std::string& pattern);

  // re.findall: the groups of each match from left to right (the whole match when there are none);
  // a group that took no part is empty.
  std::vector<std::vector<std::string>> find_all(std::string_view text) const;
  // re.sub(pattern, "", text).
  std::string remove_all(std::string_view text) const;

 private:
  // Calls on_match(offsets) for each match, left to right; offsets are begin/end pairs of bytes.
  template <typename OnMatch>
  void each_match(std::string_view text, OnMatch&& on_match) const;

  std::string pattern_;
  std::shared_ptr<void> code_;  // pcre2_code, kept out of this header
  std::size_t groups_ = 0;
};

}  // namespace quern
