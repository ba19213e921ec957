// See fnmatch.h. One saved star is enough: a later star makes earlier choices irrelevant.
#include "quern/quantize/fnmatch.h"

#include <optional>

namespace quern {
namespace {

// Length of the set that begins with the '[' at `pattern[0]`, or 1 when it is never closed.
std::size_t set_length(std::string_view pattern) {
  std::size_t end = 1;
  if (end < pattern.size() && pattern[end] == '!') ++end;
  if (end < pattern.size() && pattern[end] == ']') ++end;  // a first ']' is a member
  end = pattern.find(']', end);
  return end == std::string_view::npos ? 1 : end + 1;
}

// `members` is the text between the brackets.
bool set_contains(std::string_view members, char c) {
  const bool negated = members.front() == '!';
  if (negated) members.remove_prefix(1);
  const auto order = [](char x) { return static_cast<unsigned char>(x); };
  bool found = false;
  for (std::size_t i = 0; i < members.size();) {
    if (i + 2 < members.size() && members[i + 1] == '-') {
      found |= order(members[i]) <= order(c) && order(c) <= order(members[i + 2]);
      i += 3;
    } else {
      found |= members[i] == c;
      ++i;
    }
  }
  return found != negated;
}

// The length of the pattern's first item when it matches `c`, which is not a star.
std::optional<std::size_t> match_one(std::string_view pattern, char c) {
  if (pattern.front() == '?') return 1;
  if (pattern.front() == '[') {
    const std::size_t length = set_length(pattern);
    if (length > 1) {
      if (set_contains(pattern.substr(1, length - 2), c)) return length;
      return std::nullopt;
    }
  }
  if (pattern.front() == c) return 1;
  return std::nullopt;
}

}  // namespace

bool fnmatch(std::string_view name, std::string_view pattern) {
  std::size_t n = 0;
  std::size_t p = 0;
  std::optional<std::size_t> star;  // position behind the last star
  std::size_t star_name = 0;        // where the name went on after it
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      star_name = n;
      continue;
    }
    if (p < pattern.size()) {
      if (const auto length = match_one(pattern.substr(p), name[n])) {
        p += *length;
        ++n;
        continue;
      }
    }
    if (!star) return false;
    p = *star;
    n = ++star_name;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace quern
