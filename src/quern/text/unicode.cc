// See unicode.h. Properties are PCRE2's tables, case pairs are those of glibc's built-in C.UTF-8
// locale.
#include "quern/text/unicode.h"

#include <locale.h>
#include <wctype.h>

#include "quern/base/error.h"
#include "quern/text/regex.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

bool matches(Regex::Matcher& matcher, char32_t c) {
  std::string text;
  append_utf8(text, c);
  return matcher.find(text, 0).has_value();
}

locale_t utf8_locale() {
  static const locale_t locale = [] {
    const locale_t created = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    QUERN_CHECK(created != nullptr, "the C library has no C.UTF-8 locale");
    return created;
  }();
  return locale;
}

template <typename Fn>
std::string map_characters(std::string_view text, Fn&& append) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    append(out, scan.code_point);
    text.remove_prefix(scan.length);
  }
  return out;
}

}  // namespace

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(char32_t c) {
  static const Regex regex = Regex::compile("\\w");
  thread_local Regex::Matcher matcher(regex);
  return matches(matcher, c);
}

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  static const Regex regex = Regex::compile("[^\\p{C}\\p{Z}]");
  thread_local Regex::Matcher matcher(regex);
  return matches(matcher, c);
}

bool is_alphabetic(char32_t c) {
  static const Regex regex = Regex::compile("\\p{L}");
  thread_local Regex::Matcher matcher(regex);
  return matches(matcher, c);
}

bool is_decimal(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  static const Regex regex = Regex::compile("\\p{Nd}");
  thread_local Regex::Matcher matcher(regex);
  return matches(matcher, c);
}

bool is_upper(char32_t c) {
  static const Regex regex = Regex::compile("\\p{Uppercase}");
  thread_local Regex::Matcher matcher(regex);
  return matches(matcher, c);
}

bool is_lower(char32_t c) {
  static const Regex regex = Regex::compile("\\p{Lowercase}");
  thread_local Regex::Matcher matcher(regex);
  return matches(matcher, c);
}

char32_t simple_upper(char32_t c) {
  return static_cast<char32_t>(::towupper_l(static_cast<wint_t>(c), utf8_locale()));
}

char32_t simple_lower(char32_t c) {
  return static_cast<char32_t>(::towlower_l(static_cast<wint_t>(c), utf8_locale()));
}

std::string to_upper(std::string_view text) {
  return map_characters(text, [](std::string& out, char32_t c) {
    if (c == 0xDF)
      out += "SS";
    else
      append_utf8(out, simple_upper(c));
  });
}

std::string to_lower(std::string_view text) {
  return map_characters(text,
                        [](std::string& out, char32_t c) { append_utf8(out, simple_lower(c)); });
}

}  // namespace quern
