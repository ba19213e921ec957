#if defined(__GNUC__) && !defined(__clang__)
// libstdc++ 12's <regex> under sanitizers: a member of a union that is not in use (GCC bug 105562).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "quern/grammar/regex_grammar.h"
#include "quern/text/utf8.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <regex>
#include <string>

#include "quern/base/error.h"

namespace quern::grammar {
namespace {

TEST(Regex, Cases) {
  struct Row {
    const char* pattern;
    RegexMatch match;
    const char* text;
    bool accepted;
  };
  constexpr auto kWhole = RegexMatch::kWhole;
  constexpr auto kSearch = RegexMatch::kSearch;
  const Row rows[] = {
      {"", kWhole, "", true},
      {"", kWhole, "a", false},
      {"", kSearch, "abc", true},
      {"a|b", kWhole, "b", true},
      {"^a", kSearch, "ab", true},
      {"^a", kSearch, "ba", false},
      {"a$", kSearch, "ba", true},
      {"a$", kSearch, "ab", false},
      {"^$", kSearch, "", true},
      {"^$", kSearch, "x", false},
      {"^a*$", kSearch, "aaa", true},
      {"^a*$", kSearch, "aab", false},
      {"^a|b$", kSearch, "xb", true},
      {"^a|b$", kSearch, "xa", false},
      {"(?:a(b)?)+", kWhole, "abaab", true},
      {"(?<year>\\d{4})-(?P<m>\\d{2})", kWhole, "2024-05", true},
      {"a{2}", kWhole, "aa", true},
      {"a{2,}", kWhole, "aaaa", true},
      {"a{2,3}", kWhole, "aaaa", false},
      {"a{,3}", kWhole, "aaa", true},
      {"a{x}", kWhole, "a{x}", true},
      {"a+?b*?", kWhole, "aab", true},
      {"[a-c-]+", kWhole, "a-c", true},
      {"[^a-c]", kWhole, "b", false},
      {"[^a-c]", kWhole, "\xC3\xA9", true},
      {"[\\]\\-\\\\]+", kWhole, "]-\\", true},
      {".", kWhole, "\n", false},
      {".", kWhole, "\xF0\x9F\x98\x80", true},
      {"\\u00e9", kWhole, "\xC3\xA9", true},
      {"\\u{1F600}", kWhole, "\xF0\x9F\x98\x80", true},
      {"\\uD83D\\uDE00", kWhole, "\xF0\x9F\x98\x80", true},
      {"\\x41\\.\\/", kWhole, "A./", true},
      {"\\p{L}+", kWhole, "\xC3\xA9z", true},
      {"\\p{L}+", kWhole, "1", false},
      {"\\P{Lu}", kWhole, "a", true},
      {"[\\p{Nd}_]", kWhole, "7", true},
      {"\\p{Letter}", kWhole, "x", true},
      {"\\w\\d\\s", kWhole, "a1 ", true},
      {"\\S\\W\\D", kWhole, "a-b", true},
      {"\\cA", kWhole, "\x01", true},
      {"(a|)b", kWhole, "b", true},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(regex_automaton(row.pattern, row.match).accepts(row.text), row.accepted)
        << row.pattern << " on " << row.text;
  }
}

TEST(Regex, RefusesByName) {
  const std::pair<const char*, const char*> rows[] = {
      {"(?=a)", "lookahead (?="},
      {"(?!a)", "negative lookahead"},
      {"(?<=a)b", "lookbehind"},
      {"(?<!a)b", "negative lookbehind"},
      {"(a)\\1", "backreference"},
      {"(?P=x)", "backreference"},
      {"\\bword", "word boundary"},
      {"(?i)a", "inline flag (?i"},
      {"(?>a)", "atomic group"},
      {"a*+", "possessive quantifier"},
      {"[[:alpha:]]", "POSIX class"},
      {"a)", "unmatched )"},
      {"(a", "a group has no end"},
      {"[a", "character class has no end"},
      {"[z-a]", "out of order"},
      {"*a", "nothing to repeat"},
      {"a**", "quantifier follows"},
      {"a{3,2}", "smaller than its minimum"},
      {"a{99999}", "above 50000"},
      {"\\q", "the escape \\q"},
      {"\\p{Nonsense}", "property"},
      {"\\ud800", "surrogate"},
      {"(((((a{1000}){1000}){1000})))", "too large"},
      {"(a|b)*a(a|b){20}", "more than 60000"},
  };
  for (const auto& [pattern, text] : rows) {
    try {
      regex_automaton(pattern, RegexMatch::kWhole);
      ADD_FAILURE() << pattern << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(regex_automaton(std::string(500, '('), RegexMatch::kWhole), Error);
  EXPECT_THROW(regex_automaton(std::string(50000, 'a'), RegexMatch::kWhole), Error);
}

// Random patterns over a small alphabet against std::regex (ECMAScript).
TEST(Regex, AgreesWithStdRegex) {
  std::mt19937 random(7);
  const auto pick = [&](std::size_t n) { return random() % n; };
  const std::function<std::string(int)> make = [&](int depth) -> std::string {
    switch (depth == 0 ? pick(3) : pick(8)) {
      case 0:
        return "a";
      case 1:
        return "b";
      case 2:
        return pick(2) == 0 ? "[ab]" : "[^a]";
      case 3:
      case 4:
        return make(depth - 1) + make(depth - 1);
      case 5:
        return "(?:" + make(depth - 1) + "|" + make(depth - 1) + ")";
      case 6:
        return "(?:" + make(depth - 1) + ")" + (pick(2) == 0 ? "*" : "?");
      default:
        return "(?:" + make(depth - 1) + "){1,2}";
    }
  };
  for (int i = 0; i < 300; ++i) {
    const std::string pattern = make(3);
    const std::regex peer(pattern);
    const CharAutomaton whole = regex_automaton(pattern, RegexMatch::kWhole);
    const CharAutomaton search = regex_automaton(pattern, RegexMatch::kSearch);
    for (int k = 0; k < 60; ++k) {
      std::string text;
      for (std::size_t n = pick(7); n > 0; --n) text += "abc"[pick(3)];
      ASSERT_EQ(whole.accepts(text), std::regex_match(text, peer)) << pattern << " on " << text;
      ASSERT_EQ(search.accepts(text), std::regex_search(text, peer)) << pattern << " on " << text;
    }
  }
}

TEST(CharAutomaton, SetOperations) {
  const CharAutomaton words = regex_automaton("[a-z]+", RegexMatch::kWhole);
  const CharAutomaton some = one_of({"if", "for", "\xC3\xA9"});
  const CharAutomaton names = minus(words, some);
  EXPECT_TRUE(names.accepts("iff"));
  EXPECT_TRUE(names.accepts("i"));
  EXPECT_FALSE(names.accepts("if"));
  EXPECT_FALSE(names.accepts("\xC3\xA9"));
  const CharAutomaton both = intersect(words, some);
  EXPECT_TRUE(both.accepts("for"));
  EXPECT_FALSE(both.accepts("form"));
  EXPECT_TRUE(minus(some, some).empty());
  const CharAutomaton three = text_of_length(2, 3);
  EXPECT_FALSE(three.accepts("\xC3\xA9"));
  EXPECT_TRUE(three.accepts("\xC3\xA9\xC3\xA9\xC3\xA9"));
  EXPECT_FALSE(three.accepts("abcd"));
  EXPECT_TRUE(text_of_length(1, {}).accepts(std::string(100, 'x')));
}

TEST(CharAutomaton, TextWithout) {
  const std::string marker = "aab";
  const CharAutomaton automaton = text_without(marker);
  for (int bits = 0; bits < (1 << 12); ++bits) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += (bits >> i & 1) != 0 ? 'a' : 'b';
    EXPECT_EQ(automaton.accepts(text), text.find(marker) == std::string::npos) << text;
  }
  EXPECT_TRUE(text_without("]<]x").accepts("]<]<]\xC3\xA9"));
  EXPECT_FALSE(text_without("]<]x").accepts("]<]<]x"));
}

// Every character through its byte sequences.
TEST(CharSet, Utf8Sequences) {
  const CharSet sets[] = {CharSet::all(),
                          {{'a', 0x123}, {0x7FF, 0x801}, {0xFFFF, 0x10010}},
                          CharSet({{0x41, 0x41}}).complement()};
  for (const CharSet& set : sets) {
    std::size_t count = 0;
    for (const Utf8Sequence& sequence : utf8_sequences(set)) {
      std::size_t product = 1;
      for (int i = 0; i < sequence.size; ++i) {
        const auto& bytes = sequence.bytes[static_cast<std::size_t>(i)];
        product *= static_cast<std::size_t>(bytes.last - bytes.first + 1);
      }
      count += product;
    }
    std::size_t expected = 0;
    for (const CharRange& range : set.ranges()) expected += range.last - range.first + 1;
    EXPECT_EQ(count, expected);
  }
}

TEST(Regex, WorkIsBounded) {
  EXPECT_THROW(regex_automaton("[^]{0,50000}$(){50000}{6}", RegexMatch::kWhole), Error);
  std::string items;  // every second character: ranges that do not join
  for (char32_t c = 0x4E00; c < 0x4E00 + 2 * 10'000; c += 2) append_utf8(items, c);
  EXPECT_TRUE(regex_automaton("[" + items + "]", RegexMatch::kWhole).accepts("\u4E02"));
}

}  // namespace
}  // namespace quern::grammar
