// See char_set.h.
#include "quern/grammar/char_set.h"

#include <algorithm>
#include <utility>

#include "quern/text/utf8.h"

namespace quern::grammar {
namespace {

constexpr char32_t kSurrogateFirst = 0xD800;
constexpr char32_t kSurrogateLast = 0xDFFF;

// Both ends have the same number of bytes. Splits until all continuation bytes behind the first
// differing one run over their whole range.
void add_sequences(char32_t first, char32_t last, std::vector<Utf8Sequence>& out) {
  for (const unsigned bits : {6U, 12U, 18U}) {
    const char32_t low = (char32_t{1} << bits) - 1;
    if ((first & ~low) == (last & ~low)) continue;
    if (first > 0x7F && (first & low) != 0) {
      add_sequences(first, first | low, out);
      add_sequences((first | low) + 1, last, out);
      return;
    }
    if (first > 0x7F && (last & low) != low) {
      add_sequences(first, (last & ~low) - 1, out);
      add_sequences(last & ~low, last, out);
      return;
    }
  }
  std::string from, to;
  append_utf8(from, first);
  append_utf8(to, last);
  Utf8Sequence sequence;
  sequence.size = static_cast<int>(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    sequence.bytes[i] = {static_cast<std::uint8_t>(from[i]), static_cast<std::uint8_t>(to[i])};
  }
  out.push_back(sequence);
}

}  // namespace

CharSet::CharSet(std::initializer_list<CharRange> ranges) : ranges_(ranges) { normalize(); }

CharSet::CharSet(std::vector<CharRange> ranges) : ranges_(std::move(ranges)) { normalize(); }

CharSet CharSet::all() { return {{0, kLastChar}}; }

void CharSet::add(char32_t first, char32_t last) {
  ranges_.push_back({first, last});
  normalize();
}

void CharSet::add(const CharSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  normalize();
}

void CharSet::normalize() {
  std::vector<CharRange> parts;
  for (CharRange range : ranges_) {
    range.last = std::min(range.last, kLastChar);
    if (range.first > range.last) continue;
    if (range.first < kSurrogateFirst) {
      parts.push_back({range.first, std::min<char32_t>(range.last, kSurrogateFirst - 1)});
    }
    if (range.last > kSurrogateLast) {
      parts.push_back({std::max<char32_t>(range.first, kSurrogateLast + 1), range.last});
    }
  }
  std::ranges::sort(parts, {}, &CharRange::first);
  ranges_.clear();
  for (const CharRange& part : parts) {
    if (!ranges_.empty() && part.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, part.last);
    } else {
      ranges_.push_back(part);
    }
  }
}

CharSet CharSet::complement() const {
  CharSet result;
  char32_t next = 0;
  for (const CharRange& range : ranges_) {
    if (range.first > next) result.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastChar) result.ranges_.push_back({next, kLastChar});
  result.normalize();
  return result;
}

CharSet CharSet::intersect(const CharSet& other) const {
  CharSet result;
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    const char32_t first = std::max(a->first, b->first);
    const char32_t last = std::min(a->last, b->last);
    if (first <= last) result.ranges_.push_back({first, last});
    (a->last < b->last) ? ++a : ++b;
  }
  return result;
}

bool CharSet::contains(char32_t c) const {
  const auto after = std::ranges::upper_bound(ranges_, c, {}, &CharRange::first);
  return after != ranges_.begin() && c <= std::prev(after)->last;
}

std::vector<Utf8Sequence> utf8_sequences(const CharSet& set) {
  std::vector<Utf8Sequence> out;
  for (const CharRange& range : set.ranges()) {
    char32_t first = range.first;
    for (const char32_t limit : {char32_t{0x7F}, char32_t{0x7FF}, char32_t{0xFFFF}, kLastChar}) {
      if (first > limit || first > range.last) continue;
      const char32_t last = std::min(range.last, limit);
      add_sequences(first, last, out);
      first = last + 1;
    }
  }
  return out;
}

}  // namespace quern::grammar
