// Tokenizer on small hand-written files: each option of tokenizer.json, each refusal; decoding cut
// anywhere.
#include "quern/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "quern/base/error.h"
#include "quern/base/json.h"
#include "tests/text/tiny_tokenizer.h"

namespace quern {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Tokenizer tokenizer_of(const Json& json) { return Tokenizer::parse(json.dump(), "t.json"); }

std::string error_of(const std::string& text) {
  try {
    Tokenizer::parse(text, "t.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// The tokens' texts, joined by '|'.
std::string pieces(const Tokenizer& tokenizer, std::string_view text, bool parse_special = true) {
  std::string out;
  for (const std::int32_t id : tokenizer.encode(text, parse_special)) {
    if (!out.empty()) out += '|';
    out += tokenizer.token_bytes(id);
  }
  return out;
}

Json added(int id, const char* content, Json flags = Json::object()) {
  Json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  token.update(flags);
  return token;
}

TEST(Tokenizer, AppliesMergesByRank) {
  const Tokenizer tokenizer = tokenizer_of(tiny_tokenizer({"b c", "a b", "ab c", "x x", "xx x"}));
  EXPECT_EQ(pieces(tokenizer, "abc"), "a|bc");
  EXPECT_EQ(pieces(tokenizer, "ab abc"), "ab| |a|bc");
  EXPECT_EQ(pieces(tokenizer, "xxxxx"), "xx|xxx");
  EXPECT_EQ(pieces(tokenizer, ""), "");
}

TEST(Tokenizer, ReadsMergesAsPairs) {
  Json json = tiny_tokenizer({"a b"});
  json["model"]["merges"] = Json::parse(R"([["a", "b"]])");
  EXPECT_EQ(pieces(tokenizer_of(json), "aab"), "a|ab");
}

TEST(Tokenizer, IgnoreMergesTakesWholePiecesFromTheVocabulary) {
  Json json = tiny_tokenizer({"b c", "a b"});
  json["model"]["vocab"]["abc"] = 300;
  EXPECT_EQ(pieces(tokenizer_of(json), "abc"), "a|bc");
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(pieces(tokenizer_of(json), "abc"), "abc");
}

TEST(Tokenizer, FindsAddedTokensLongestFirst) {
  Json json = tiny_tokenizer({});
  json["added_tokens"] = {added(256, "<a>"), added(257, "<a><b>"),
                          added(258, "<c>", {{"special", false}})};
  const Tokenizer tokenizer = tokenizer_of(json);
  EXPECT_THAT(tokenizer.encode("<a><b><a><c>"), ElementsAre(257, 256, 258));
  EXPECT_EQ(pieces(tokenizer, "x<a>y"), "x|<a>|y");
  EXPECT_EQ(pieces(tokenizer, "<a><c>", false), "<|a|>|<c>");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("<a>q<c>"), true), "q<c>");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("<a>q<c>"), false), "<a>q<c>");
  EXPECT_EQ(tokenizer.token_id("<c>"), 258);
  EXPECT_EQ(tokenizer.token_id("<d>"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(256));
  EXPECT_FALSE(tokenizer.is_special(258));
  EXPECT_EQ(tokenizer.vocab_size(), 259);
}

TEST(Tokenizer, FlagsOfAddedTokens) {
  struct Case {
    Json flags;
    const char* text;
    const char* expected;
  };
  const Case cases[] = {
      {{}, "a  <t>  b", "a| | |<t>| | |b"},
      {{{"lstrip", true}}, "a \n<t>  b", "a|<t>| | |b"},
      {{{"rstrip", true}}, "a  <t>\u3000 b", "a| | |<t>|b"},
      {{{"lstrip", true}, {"rstrip", true}}, "<t> <t> ", "<t>|<t>"},
      {{{"single_word", true}}, "a<t>b", "a|<|t|>|b"},
      {{{"single_word", true}}, "a <t>\u00e9", "a| |<|t|>|\xC3|\xA9"},
      {{{"single_word", true}}, "a <t>-", "a| |<t>|-"},
      {{{"normalized", true}}, "a<t>", "a|<t>"},
  };
  for (const Case& c : cases) {
    Json json = tiny_tokenizer({});
    json["added_tokens"] = {added(256, "<t>", c.flags.is_null() ? Json::object() : c.flags)};
    EXPECT_EQ(pieces(tokenizer_of(json), c.text), c.expected) << c.flags << " " << c.text;
  }
}

// Merges make each piece of letters one token, so that the cuts of the pre-tokenizer show.
TEST(Tokenizer, PreTokenizers) {
  struct Case {
    const char* pre_tokenizer;
    const char* text;
    const char* expected;
  };
  const char* byte_level = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  const auto split = [&](const char* rest) {
    return fmt::format(R"({{"type":"Sequence","pretokenizers":[{{"type":"Split",{}}},{}]}})", rest,
                       byte_level);
  };
  const std::string isolated = split(R"("pattern":{"String":"-"},"behavior":"Isolated")");
  const std::string removed = split(R"("pattern":{"String":"-"},"behavior":"Removed")");
  const std::string previous = split(R"("pattern":{"String":"-"},"behavior":"MergedWithPrevious")");
  const std::string next = split(R"("pattern":{"String":"-"},"behavior":"MergedWithNext")");
  const std::string contiguous = split(R"("pattern":{"String":"-"},"behavior":"Contiguous")");
  const std::string inverted =
      split(R"("pattern":{"Regex":"a+"},"behavior":"Removed","invert":true)");
  const std::string empty_match = split(R"("pattern":{"Regex":"x*"},"behavior":"Isolated")");
  const Case cases[] = {
      {byte_level, "a--a", "a-|-a"},
      {isolated.c_str(), "a--a", "a|-|-|a"},
      {removed.c_str(), "a--a", "a|a"},
      {previous.c_str(), "a--a", "a-|-|a"},
      {next.c_str(), "a--a", "a|-|-a"},
      {next.c_str(), "a-", "a|-"},
      {contiguous.c_str(), "a--a", "a|--|a"},
      {inverted.c_str(), "a--aa-", "a|aa"},
      {empty_match.c_str(), "a-", "a-"},
      {R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})", "a-a", " a|-|a"},
  };
  const std::vector<std::string> merges = {"a -",  "- a",   "a a",  "- -",
                                           "a- -", "a-- a", "a- a", "Ġ a"};
  for (const Case& c : cases) {
    Json json = tiny_tokenizer(merges);
    json["pre_tokenizer"] = Json::parse(c.pre_tokenizer);
    const std::string found = pieces(tokenizer_of(json), c.text);
    EXPECT_EQ(found, c.expected) << c.pre_tokenizer << " " << c.text;
  }
}

TEST(Tokenizer, RefusesWrongFiles) {
  struct Case {
    const char* path;  // JSON pointer of what is replaced
    const char* value;
    const char* message;
  };
  const Case cases[] = {
      {"/model/type", "\"Unigram\"", "model.type: \"Unigram\" is not supported"},
      {"/model/byte_fallback", "true", "model.byte_fallback: true is not supported"},
      {"/model/dropout", "0.1", "model.dropout: 0.1 is not supported"},
      {"/model/continuing_subword_prefix", "\"##\"", "is not supported"},
      {"/model/ignore_merges", "1", "model.ignore_merges: expected true or false"},
      {"/model/merges", "[\"a b c\"]",
       "model.merges[0]: expected \"a b\" or [\"a\", \"b\"], found 'a b c'"},
      {"/model/merges", "[\"ab\"]", "model.merges[0]"},
      {"/model/merges", "[[\"a\"]]", "found an array of 1 strings"},
      {"/model/merges", "[[\"a\",\"b\",\"c\"]]", "more than two strings"},
      {"/model/merges", "[7]", "model.merges[0]"},
      {"/model/merges", "[{\"a\":1}]", "model.merges[0]"},
      {"/model/merges", "[\"a q\"]", "'aq' is not in the vocabulary"},
      {"/model/vocab/a", "-1", "model.vocab['a']"},
      {"/model/vocab/a", "1.5", "model.vocab['a']"},
      {"/model/vocab/a", "4294967296", "model.vocab['a']: id 4294967296 is not below"},
      {"/model/vocab/a", "[1]", "model.vocab['a']: expected an id, found an array"},
      {"/model/vocab/a", "0", "model.vocab: id 0 occurs twice"},
      {"/model/vocab", "{\"a\":1}", "no token"},
      {"/model/vocab", "[]", "model.vocab: found array of the wrong type"},
      {"/model/merges", "{}", "model.merges: found object of the wrong type"},
      {"/model", "3", "model: expected an object"},
      {"/normalizer", "{\"type\":\"NFC\"}", "normalizer: {\"type\":\"NFC\"} is not supported"},
      {"/decoder", "null", "decoder: null is not supported"},
      {"/pre_tokenizer", "null", "pre_tokenizer"},
      {"/pre_tokenizer", "{\"type\":\"Whitespace\"}", "pre_tokenizer"},
      {"/pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[]}", "pretokenizers"},
      {"/pre_tokenizer", "{\"type\":\"Split\"}", "pre_tokenizer"},
      {"/pre_tokenizer/use_regex", "3", "use_regex"},
      {"/added_tokens", "{}", "added_tokens: expected an array"},
      {"/added_tokens", "[{\"id\":300}]", "added_tokens[0].content"},
      {"/added_tokens", "[{\"id\":-1,\"content\":\"x\"}]", "added_tokens[0].id"},
      {"/added_tokens", "[{\"id\":99999999,\"content\":\"x\"}]", "added_tokens[0].id"},
      {"/added_tokens", "[{\"id\":5,\"content\":\"<x>\"}]", "has the id 5 of another token"},
      {"/added_tokens", "[{\"id\":300,\"content\":\"\"}]", "added_tokens[0].content"},
      {"/added_tokens", "[{\"id\":300,\"content\":\"q\"},{\"id\":301,\"content\":\"q\"}]", "twice"},
      {"/added_tokens", "[{\"id\":300,\"content\":\"<x>\",\"special\":1}]",
       "added_tokens[0].special"},
  };
  for (const Case& c : cases) {
    Json json = tiny_tokenizer({});
    json[Json::json_pointer(c.path)] = Json::parse(c.value);
    EXPECT_THAT(error_of(json.dump()), HasSubstr(c.message)) << c.path << " = " << c.value;
  }
  EXPECT_THAT(error_of(""), HasSubstr("t.json: invalid JSON"));
  EXPECT_THAT(error_of("[1]"), HasSubstr("t.json: expected an object"));
  EXPECT_THAT(error_of("{\"a\":1,\"a\":2}"), HasSubstr("duplicate key 'a'"));
  EXPECT_THAT(error_of(std::string(1'000'000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of("{\"model\":{\"vocab\":{\"a\":0,\"a\":1}}}"), HasSubstr("t.json"));
}

TEST(Tokenizer, RefusesInvalidText) {
  const Tokenizer tokenizer = tokenizer_of(tiny_tokenizer({}));
  EXPECT_THROW(tokenizer.encode("ab\xFF"), Error);
  EXPECT_THROW(tokenizer.encode("\xED\xA0\x80"), Error);  // a surrogate
}

TEST(Tokenizer, DecodeReplacesBrokenCharactersAndSkipsUnknownIds) {
  const Tokenizer tokenizer = tokenizer_of(tiny_tokenizer({}));
  const auto id = [&](char c) { return *tokenizer.token_id(std::string(1, c)); };
  const std::vector<std::int32_t> broken = {id('\xE2'), id('\x82'), id('a'), -1, 5000, id('\xC3')};
  EXPECT_EQ(tokenizer.decode(broken, false), "\uFFFDa\uFFFD");
  IncrementalDecoder decoder(tokenizer, false);
  EXPECT_EQ(decoder.feed(std::span(broken).first(2)), "");
  EXPECT_EQ(decoder.feed(broken[2]), "\uFFFDa");
  EXPECT_EQ(decoder.feed(broken[5]), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(Tokenizer, IncrementalDecodingEqualsDecodingAtOnce) {
  const Tokenizer tokenizer = tokenizer_of(tiny_tokenizer({"a b"}));
  const unsigned seed = 20'240'607;
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::int32_t> ids(random() % 40);
    for (auto& id : ids) id = static_cast<std::int32_t>(random() % 258);
    IncrementalDecoder decoder(tokenizer, false);
    std::string text;
    for (const std::int32_t id : ids) text += decoder.feed(id);
    text += decoder.finish();
    EXPECT_EQ(text, tokenizer.decode(ids, false)) << "seed " << seed << " round " << round;
  }
}

TEST(Tokenizer, SaysHowLongATokenCanBe) {
  EXPECT_EQ(tokenizer_of(tiny_tokenizer({"a b", "ab ab"})).max_token_bytes(), 4U);
  Json json = tiny_tokenizer({});
  json["added_tokens"] = {added(256, "<t>", {{"rstrip", true}})};
  EXPECT_EQ(tokenizer_of(json).max_token_bytes(), std::nullopt) << "with any white space";
}

// 10 MB without a cut: a quadratic step anywhere would take hours.
TEST(Tokenizer, LongPiecesTakeLinearithmicTime) {
  std::vector<std::string> merges = {"a a", "aa aa", "aaaa aaaa"};
  const Tokenizer tokenizer = tokenizer_of(tiny_tokenizer(merges));
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& unit :
       {std::string("a"), std::string(" "), std::string("A"), std::string("\n"),
        std::string("\u4e2d"), std::string("1"), std::string("<")}) {
    std::string text;
    while (text.size() < 3'000'000) text += unit;
    const auto ids = tokenizer.encode(text);
    EXPECT_EQ(tokenizer.decode(ids, false), text);
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_LT(taken.count(), 120.0);
}

}  // namespace
}  // namespace quern
