#include "quern/grammar/automaton.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "quern/base/error.h"
#include "quern/grammar/ebnf.h"
#include "quern/grammar/matcher.h"
#include "tests/grammar/random_grammar.h"

namespace quern::grammar {
namespace {

bool accepts(const Automaton& automaton, std::string_view text) {
  Matcher matcher(automaton);
  return matcher.accept(text) && matcher.can_end();
}

std::vector<std::string> all_texts(std::size_t max_size) {
  const std::string alphabet[] = {"a", "b", "c", "\xC3\xA9"};
  std::vector<std::string> texts = {""};
  std::size_t begin = 0;
  for (std::size_t size = 1; size <= max_size; ++size) {
    const std::size_t end = texts.size();
    for (std::size_t i = begin; i < end; ++i) {
      for (const std::string& c : alphabet) texts.push_back(texts[i] + c);
    }
    begin = end;
  }
  return texts;
}

// An accepted prefix can be completed: breadth first, until something may end.
bool can_be_completed(Matcher matcher, int steps) {
  std::vector<Matcher> front = {std::move(matcher)};
  for (int i = 0; i < steps; ++i) {
    std::vector<Matcher> next;
    for (Matcher& m : front) {
      if (m.can_end()) return true;
      for (int byte = 0; byte < 256; ++byte) {
        Matcher copy = m;
        const char c = static_cast<char>(byte);
        if (copy.accept({&c, 1}) && next.size() < 200) next.push_back(std::move(copy));
      }
    }
    front = std::move(next);
  }
  return false;
}

TEST(Automaton, AgreesWithNaiveMatcher) {
  const std::vector<std::string> texts = all_texts(5);
  int compiled = 0;
  int accepted = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    GrammarBuilder builder;
    const RuleId root = test::make_random_grammar(builder, random);
    Automaton automaton;
    try {
      automaton = compile(builder, root);
    } catch (const Error& error) {
      const std::string text = error.what();
      if (text.find("no text") != std::string::npos) {
        for (const std::string& t : texts) {
          ASSERT_FALSE(test::NaiveMatcher(builder, t).matches(root)) << t;
        }
      } else {
        ASSERT_NE(text.find("left recursion"), std::string::npos) << text;
      }
      continue;
    }
    ++compiled;
    try {
      for (const std::string& text : texts) {
        if (text.size() > 3 && random() % 4 != 0) continue;
        Matcher matcher(automaton);
        const bool prefix = matcher.accept(text);
        const bool whole = test::NaiveMatcher(builder, text).matches(root);
        ASSERT_EQ(prefix && matcher.can_end(), whole) << text;
        accepted += whole ? 1 : 0;
        if (prefix && text.size() <= 2) {
          ASSERT_TRUE(can_be_completed(matcher, 12)) << text;
        }
      }
    } catch (const Error& error) {
      ASSERT_NE(std::string(error.what()).find("too ambiguous"), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(compiled, 200);
  EXPECT_GT(accepted, 900);
}

Automaton ebnf(std::string_view text) {
  GrammarBuilder builder;
  const RuleId root = parse_ebnf(text, builder);
  return compile(builder, root);
}

TEST(Automaton, RecursionKeepsItsPlace) {
  const Automaton nested = ebnf("root ::= \"(\" root \")\" | \"x\"");
  std::string deep(1000, '(');
  EXPECT_TRUE(accepts(nested, deep + "x" + std::string(1000, ')')));
  EXPECT_FALSE(accepts(nested, deep + "x" + std::string(999, ')')));
  EXPECT_FALSE(accepts(nested, deep + "x" + std::string(1001, ')')));

  // Right recursion needs no stack: the situation comes back.
  const Automaton list = ebnf("root ::= item \",\" root | item\nitem ::= [a-z]");
  Matcher matcher(list);
  ASSERT_TRUE(matcher.accept("a,b,"));
  const std::vector<Configuration> first(matcher.configurations().begin(),
                                         matcher.configurations().end());
  ASSERT_TRUE(matcher.accept("c,d,e,f,"));
  EXPECT_TRUE(std::ranges::equal(first, matcher.configurations()));
}

TEST(Automaton, RefusesWhatCannotWork) {
  EXPECT_THROW(ebnf("root ::= a\na ::= b \"x\"\nb ::= a \"y\" | \"z\""), Error);
  EXPECT_THROW(ebnf("root ::= \"x\" root"), Error);  // never ends
  // Alternatives of one length are told apart only at the end: too many subsets.
  EXPECT_THROW(ebnf("root ::= [ab]* \"a\" [ab]{24}"), Error);
  GrammarBuilder builder;
  const RuleId root = parse_ebnf("root ::= [a-z]{500}", builder);
  EXPECT_THROW(compile(builder, root, {.max_states = 400}), Error);
  EXPECT_THROW(compile(builder, root, {.max_table_bytes = 1000}), Error);
  EXPECT_EQ(compile(builder, root).num_states(), 501);
}

// Each rule doubles the text: small as rules, astronomic as one automaton.
TEST(Automaton, ExponentialTextIsSmallGrammar) {
  std::string text = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) {
    text += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " r" +
            std::to_string(i + 1) + "\n";
  }
  text += "r40 ::= \"x\"\n";
  const Automaton automaton = ebnf(text);
  EXPECT_LT(automaton.num_states(), 5000);
  Matcher matcher(automaton);
  EXPECT_TRUE(matcher.accept(std::string(3000, 'x')));
  EXPECT_FALSE(matcher.can_end());
}

TEST(Automaton, TooAmbiguousIsAnError) {
  const Automaton palindromes = ebnf("root ::= [ab] root [ab] | \"\"");
  Matcher matcher(palindromes);
  EXPECT_TRUE(matcher.accept(std::string(100, 'a')));
  EXPECT_TRUE(matcher.can_end());
  EXPECT_THROW(matcher.accept(std::string(400, 'a')), Error);
}

}  // namespace
}  // namespace quern::grammar
