// See python_regex.h. Rules for empty matches: CPython 3.7+ Modules/_sre.c (must_advance).
#include "quern/eval/python_regex.h"

#include "quern/base/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>

namespace quern {
namespace {

// Far above what a linear pattern needs on the longest answer, and below a second of work.
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapLimitKib = 65'536;

std::string message_of(int code) {
  std::array<unsigned char, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeCompileContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

// Python's \Z is the very end; PCRE2's also matches in front of a last line feed, its \z does not.
std::string with_python_end(std::string pattern) {
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      if (++i < pattern.size() && pattern[i] == 'Z' && !in_class) pattern[i] = 'z';
    } else if (in_class) {
      in_class = pattern[i] != ']';
    } else if (pattern[i] == '[') {
      in_class = true;  // a ] in front is a member
      if (pattern.compare(i + 1, 1, "^") == 0) ++i;
      if (pattern.compare(i + 1, 1, "]") == 0) ++i;
    }
  }
  return pattern;
}

pcre2_code* compile(const std::string& pattern) {
  const std::string translated = with_python_end(pattern);
  const std::unique_ptr<pcre2_compile_context, FreeCompileContext> context(
      pcre2_compile_context_create(nullptr));
  QUERN_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get());
  if (code == nullptr) {
    throw Error("regular expression '{}': {} at byte {}", pattern, message_of(error), offset);
  }
  return code;
}

}  // namespace

PythonRegex::PythonRegex(const std::string& pattern)
    : pattern_(pattern),
      code_(compile(pattern), [](void* code) { pcre2_code_free(static_cast<pcre2_code*>(code)); }) {
  std::uint32_t groups = 0;
  pcre2_pattern_info(static_cast<pcre2_code*>(code_.get()), PCRE2_INFO_CAPTURECOUNT, &groups);
  groups_ = groups;
}

template <typename OnMatch>
void PythonRegex::each_match(std::string_view text, OnMatch&& on_match) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, FreeMatchData> data(
      pcre2_match_data_create_from_pattern(code, nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatchContext> context(
      pcre2_match_context_create(nullptr));
  QUERN_CHECK(data != nullptr && context != nullptr);
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);

  PCRE2_SIZE start = 0;
  std::uint32_t options = 0;
  while (start <= text.size()) {
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  start, options, data.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0) throw Error("regular expression '{}': {}", pattern_, message_of(found));
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
    if (offsets[0] > offsets[1])
      throw Error("regular expression '{}': \\K moves a match backwards", pattern_);
    on_match(offsets);
    start = offsets[1];
    // The text is known to be UTF-8 after the first match. An empty match is not found again at its
    // place, but a longer one may be.
    options = PCRE2_NO_UTF_CHECK | (offsets[0] == offsets[1] ? PCRE2_NOTEMPTY_ATSTART : 0U);
  }
}

std::vector<std::vector<std::string>> PythonRegex::find_all(std::string_view text) const {
  std::vector<std::vector<std::string>> matches;
  each_match(text, [&](const PCRE2_SIZE* offsets) {
    std::vector<std::string>& groups = matches.emplace_back();
    for (std::size_t i = groups_ == 0 ? 0 : 1; i <= groups_; ++i) {
      const PCRE2_SIZE begin = offsets[2 * i];
      const PCRE2_SIZE end = offsets[2 * i + 1];
      groups.emplace_back(begin == PCRE2_UNSET ? std::string_view()
                                               : text.substr(begin, end - begin));
    }
  });
  return matches;
}

std::string PythonRegex::remove_all(std::string_view text) const {
  std::string kept;
  std::size_t copied = 0;
  each_match(text, [&](const PCRE2_SIZE* offsets) {
    kept += text.substr(copied, offsets[0] - copied);
    copied = offsets[1];
  });
  kept += text.substr(copied);
  return kept;
}

}  // namespace quern
