// Regular expressions of tokenizer files (the Oniguruma dialect of `tokenizers`), run by PCRE2.
// Must never backtrack without a limit.
// Proved by tests/text/tokenizer_test.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace quern {

struct RegexMatch {
  std::size_t begin;
  std::size_t end;
};

// A compiled pattern; immutable, shared by threads.
class Regex {
 public:
  // Translates what the two dialects write differently (\s, \w, \h, script properties); refuses
  // what only Oniguruma has (set operations in a class). Throws Error with the place in the
  // pattern.
  static Regex compile(std::string_view pattern);
  // Matches `text` itself.
  static Regex literal(std::string_view text);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Working memory of one thread.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    Matcher(Matcher&&) noexcept;
    ~Matcher();
    // First match at or behind `from`; `subject` must be valid UTF-8. Throws Error at the match
    // limit.
    std::optional<RegexMatch> find(std::string_view subject, std::size_t from);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  explicit Regex(std::unique_ptr<const Code> code);
  static Regex compile_pcre2(std::string_view pattern, std::string_view shown, unsigned options);
  std::unique_ptr<const Code> code_;
};

}  // namespace quern
