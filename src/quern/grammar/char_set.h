// A set of Unicode scalar values, and its UTF-8 byte sequences.
// Must never hold a surrogate or a value above U+10FFFF.
// Proved by tests/grammar/regex_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace quern::grammar {

struct CharRange {
  char32_t first;
  char32_t last;  // included
  bool operator==(const CharRange&) const = default;
};

inline constexpr char32_t kLastChar = 0x10FFFF;

// Ranges are sorted, disjoint and not adjacent.
class CharSet {
 public:
  CharSet() = default;
  CharSet(std::initializer_list<CharRange> ranges);
  // Of many ranges, in any order: adding one after the other takes quadratic time.
  explicit CharSet(std::vector<CharRange> ranges);
  static CharSet all();
  static CharSet of(char32_t c) { return {{c, c}}; }

  void add(char32_t first, char32_t last);
  void add(const CharSet& other);
  CharSet complement() const;
  CharSet intersect(const CharSet& other) const;
  CharSet minus(const CharSet& other) const { return intersect(other.complement()); }

  bool contains(char32_t c) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<CharRange>& ranges() const { return ranges_; }

 private:
  void normalize();
  std::vector<CharRange> ranges_;
};

// One to four byte ranges in a row.
struct Utf8Sequence {
  struct Bytes {
    std::uint8_t first;
    std::uint8_t last;
  };
  std::array<Bytes, 4> bytes;
  int size = 0;
};

// Sequences that together match exactly the UTF-8 forms of the set.
std::vector<Utf8Sequence> utf8_sequences(const CharSet& set);

}  // namespace quern::grammar
