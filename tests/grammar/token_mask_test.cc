#include "quern/grammar/token_mask.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "quern/base/error.h"
#include "quern/grammar/ebnf.h"
#include "tests/grammar/random_grammar.h"

namespace quern::grammar {
namespace {

// All short texts over the alphabet of the random grammars, pieces of characters and a duplicate.
std::vector<std::string> small_vocabulary() {
  std::vector<std::string> texts = {"", "\xC3", "\xA9", "a", "abcabcabc", "cccc", "aaaa\xC3"};
  const std::string letters = "abc";
  for (const char x : letters) {
    texts.push_back({x});
    for (const char y : letters) {
      texts.push_back({x, y});
      texts.push_back(std::string{x} + "\xC3\xA9" + y);
      for (const char z : letters) texts.push_back({x, y, z});
    }
  }
  return texts;
}

std::vector<MaskWord> brute_force(const TokenMatcher& matcher,
                                  const std::vector<std::string>& texts) {
  std::vector<MaskWord> mask(mask_words(static_cast<int>(texts.size())), 0);
  for (std::size_t id = 0; id < texts.size(); ++id) {
    TokenMatcher copy = matcher;
    if (!texts[id].empty() && copy.accept(texts[id])) {
      mask_set(mask, static_cast<std::int32_t>(id));
    }
  }
  return mask;
}

TEST(TokenMask, EqualsBruteForceOnRandomGrammars) {
  const std::vector<std::string> texts = small_vocabulary();
  const auto trie = std::make_shared<const TokenTrie>(texts);
  int masks = 0;
  for (unsigned seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed + 1000);
    GrammarBuilder builder;
    const RuleId root = test::make_random_grammar(builder, random);
    try {
      const auto grammar = std::make_shared<const TokenGrammar>(compile(builder, root), trie);
      if (seed % 2 == 0) grammar->warm(std::chrono::milliseconds(5));
      for (int walk = 0; walk < 3; ++walk) {
        TokenMatcher matcher(grammar);
        std::vector<MaskWord> mask(mask_words(trie->vocab_size()));
        for (int step = 0; step < 12; ++step) {
          const bool any = matcher.fill(mask);
          ASSERT_EQ(mask, brute_force(matcher, texts)) << "step " << step;
          ++masks;
          if (!any) {
            ASSERT_TRUE(matcher.can_end());
            break;
          }
          std::int32_t token = static_cast<std::int32_t>(random() % texts.size());
          while (!mask_has(mask, token)) token = (token + 1) % trie->vocab_size();
          ASSERT_TRUE(matcher.accept(texts[static_cast<std::size_t>(token)]));
        }
      }
    } catch (const Error&) {  // left recursion, no text, too ambiguous
    }
  }
  EXPECT_GT(masks, 3000);
}

// Bounded repeats, whose states share parts of masks by the length of tokens: at every place of the
// text, with tokens of all lengths.
TEST(TokenMask, EqualsBruteForceInBoundedRepeats) {
  std::vector<std::string> texts = small_vocabulary();
  for (const std::size_t length : {5U, 8U, 9U, 16U, 17U, 33U, 64U, 65U, 90U}) {
    texts.emplace_back(length, 'a');
    texts.push_back(std::string(length - 1, 'a') + "b");
    texts.push_back(std::string(length - 1, 'a') + "c");
  }
  const auto trie = std::make_shared<const TokenTrie>(texts);
  for (const char* text : {"root ::= [ab]{0,150} \"c\"", "root ::= ([ab]{1,40} \"c\"){0,8}",
                           "root ::= x{0,120}\nx ::= \"a\" | \"b\" x \"c\"",
                           "root ::= ([ab\u00e9]{0,80} \"c\")* \"a\""}) {
    SCOPED_TRACE(text);
    GrammarBuilder builder;
    const RuleId root = parse_ebnf(text, builder);
    const auto grammar = std::make_shared<const TokenGrammar>(compile(builder, root), trie);
    std::mt19937 random(3);
    for (int walk = 0; walk < 4; ++walk) {
      TokenMatcher matcher(grammar);
      std::vector<MaskWord> mask(mask_words(trie->vocab_size()));
      for (int step = 0; step < 60 && matcher.fill(mask); ++step) {
        ASSERT_EQ(mask, brute_force(matcher, texts)) << "step " << step;
        std::int32_t token = static_cast<std::int32_t>(random() % texts.size());
        while (!mask_has(mask, token)) token = (token + 1) % trie->vocab_size();
        ASSERT_TRUE(matcher.accept(texts[static_cast<std::size_t>(token)]));
      }
    }
  }
}

TEST(TokenTrie, FindsTextsAndKeepsDuplicates) {
  const std::vector<std::string> texts = {"ab", "", "a", "abc", "b", "ab"};
  const TokenTrie trie(texts);
  EXPECT_EQ(trie.vocab_size(), 6);
  EXPECT_EQ(trie.size(), 5);
  EXPECT_EQ(trie.max_depth(), 3);
  const int ab = trie.find("ab");
  ASSERT_GE(ab, 0);
  const auto& node = trie.nodes()[static_cast<std::size_t>(ab)];
  const auto& next = trie.nodes()[static_cast<std::size_t>(ab) + 1];
  EXPECT_EQ(next.first_token - node.first_token, 2);
  EXPECT_EQ(trie.find("c", ab), trie.find("abc"));
  EXPECT_EQ(trie.find("abd"), -1);
  EXPECT_EQ(trie.find(""), 0);
  EXPECT_EQ(TokenTrie(std::vector<std::string>{}).size(), 1);
}

// What was kept for one sequence serves another, and the end of the budget drops the oldest.
TEST(TokenMask, SharedAcrossSequences) {
  GrammarBuilder builder;
  const RuleId root = parse_ebnf("root ::= \"a\" root \"b\" | \"c\"", builder);
  const std::vector<std::string> texts = small_vocabulary();
  const auto grammar = std::make_shared<const TokenGrammar>(
      compile(builder, root), std::make_shared<const TokenTrie>(texts));
  TokenMatcher one(grammar);
  TokenMatcher other(grammar);
  std::vector<MaskWord> mask(mask_words(static_cast<int>(texts.size())));
  for (const char* text : {"a", "a", "ac", "b"}) {
    ASSERT_TRUE(one.accept(text));
    ASSERT_TRUE(one.fill(mask));
    EXPECT_EQ(mask, brute_force(one, texts));
    EXPECT_FALSE(other.accept("b"));
    ASSERT_TRUE(other.fill(mask));
    EXPECT_EQ(mask, brute_force(other, texts));
  }
}

}  // namespace
}  // namespace quern::grammar
