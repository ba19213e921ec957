#include "quern/engine/stop_text.h"

#include <gtest/gtest.h>

#include <random>

namespace quern::engine {
namespace {

struct Result {
  std::string text;
  std::string stop;
  bool operator==(const Result&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Result& result) {
  return out << '"' << result.text << "\" stopped by \"" << result.stop << '"';
}

ReasoningFormat think(bool starts_in_reasoning) {
  return {"<think>", "</think>", starts_in_reasoning};
}

Result run(const SamplingParams& params, const ReasoningFormat& reasoning,
           const std::vector<std::string>& pieces) {
  StopText stop_text(params, reasoning);
  Result result;
  for (const std::string& piece : pieces) {
    result.text += stop_text.push(piece, true);
    if (stop_text.matched() != nullptr) break;
  }
  result.text += stop_text.finish();
  if (stop_text.matched() != nullptr) result.stop = *stop_text.matched();
  return result;
}

struct Row {
  const char* what;
  std::vector<std::string> stop;
  std::string text;
  Result expected;
  ReasoningFormat reasoning = {};
  bool include = false;
  bool in_reasoning = false;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"no stop string", {}, "abc", {"abc", ""}},
      {"not found", {"xyz"}, "abcxy", {"abcxy", ""}},
      {"cut before", {"END"}, "hello END world", {"hello ", "END"}},
      {"cut behind", {"END"}, "hello END world", {"hello END", "END"}, {}, true},
      {"first character", {"a"}, "abc", {"", "a"}},
      {"completes first, not begins first", {"bcdef", "cd"}, "abcdefg", {"ab", "cd"}},
      {"tie: order of the list", {"b", "ab"}, "xab", {"xa", "b"}},
      {"tie: order of the list, reversed", {"ab", "b"}, "xab", {"x", "ab"}},
      {"overlaps itself", {"aab"}, "aaaab", {"aa", "aab"}},
      {"false start", {"\n\nQ", "\n#"}, "a\n\n#", {"a\n", "\n#"}},
      {"UTF-8", {"é!"}, "caféé!", {"café", "é!"}},
      {"not inside reasoning the model opened",
       {"Q:"},
       "<think>Q: x</think>A Q: y",
       {"<think>Q: x</think>A ", "Q:"},
       think(false)},
      {"not inside reasoning the prompt opened",
       {"Q:"},
       "Q: x</think>A Q: y",
       {"Q: x</think>A ", "Q:"},
       think(true)},
      {"before reasoning", {"Q:"}, "Q: <think>", {"", "Q:"}, think(false)},
      {"reasoning that does not end", {"Q:"}, "<think>Q: Q:", {"<think>Q: Q:", ""}, think(false)},
      {"a second section is answer",
       {"Q:"},
       "<think>a</think>b<think>Q:",
       {"<think>a</think>b<think>", "Q:"},
       think(false)},
      {"not across the end of reasoning",
       {"k>Q"},
       "<think>a</think>Qk>Q",
       {"<think>a</think>Q", "k>Q"},
       think(false)},
      {"a marker is no match",
       {"<"},
       "<think><</think>a<b",
       {"<think><</think>a", "<"},
       think(false)},
      {"a beginning of a marker is one", {"<"}, "<thin", {"", "<"}, think(false)},
      {"a beginning of a marker that goes on", {"hin"}, "<thing", {"<t", "hin"}, think(false)},
      {"the switch", {"Q:"}, "<think>Q: x</think>", {"<think>", "Q:"}, think(false), false, true},
      {"the end marker as stop string",
       {"</think>"},
       "a</think>b</think>c",
       {"a</think>b", "</think>"},
       think(true)},
  };
  return table;
}

SamplingParams params_of(const Row& row) {
  SamplingParams params;
  params.stop = row.stop;
  params.include_stop_str_in_output = row.include;
  params.stop_in_reasoning = row.in_reasoning;
  return params;
}

// Whole, in single bytes, and cut at every pair of places.
TEST(StopText, SameResultAtEveryCut) {
  for (const Row& row : rows()) {
    SCOPED_TRACE(row.what);
    const SamplingParams params = params_of(row);
    std::vector<std::string> bytes;
    for (const char c : row.text) bytes.emplace_back(1, c);
    EXPECT_EQ(run(params, row.reasoning, {row.text}), row.expected);
    EXPECT_EQ(run(params, row.reasoning, bytes), row.expected);
    for (std::size_t a = 0; a <= row.text.size(); ++a) {
      for (std::size_t b = a; b <= row.text.size(); ++b) {
        ASSERT_EQ(run(params, row.reasoning,
                      {row.text.substr(0, a), row.text.substr(a, b - a), row.text.substr(b)}),
                  row.expected)
            << a << " " << b;
      }
    }
  }
}

TEST(StopText, HoldsBackOnlyWhatCouldBeCut) {
  SamplingParams params;
  params.stop = {"stop", "\n\n"};
  StopText text(params, {});
  const struct {
    const char* piece;
    const char* shown;
  } rows[] = {{"abc", "abc"}, {"st", ""},   {"o", ""},   {"x", "stox"},
              {"\n", ""},     {"y", "\ny"}, {"sst", "s"}};
  for (const auto& row : rows) EXPECT_EQ(text.push(row.piece, true), row.shown) << row.piece;
  EXPECT_EQ(text.finish(), "st");
}

TEST(StopText, DoesNotHoldReasoningBack) {
  SamplingParams params;
  params.stop = {"stop"};
  StopText text(params, think(true));
  EXPECT_EQ(text.push("a sto", true), "a sto");
  EXPECT_EQ(text.push("p</thi", true), "p</thi");
  EXPECT_EQ(text.push("nk>sto", true), "nk>");
}

// A match must end in text for which stopping was allowed; it may begin before.
TEST(StopText, MinTokens) {
  SamplingParams params;
  params.stop = {"ab"};
  StopText text(params, {});
  EXPECT_EQ(text.push("xab", false), "xab");
  EXPECT_EQ(text.matched(), nullptr);
  EXPECT_EQ(text.push("a", false), "");
  EXPECT_EQ(text.push("bc", true), "");
  ASSERT_NE(text.matched(), nullptr);
}

// Long random texts over three letters in random pieces against one search of the whole.
TEST(StopText, LongTextsAgainstAWholeSearch) {
  const unsigned seed = 7;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  SamplingParams params;
  params.stop = {"abcabcaabbcc", "ccccccccc", "abababababab"};
  int matches = 0;
  for (int round = 0; round < 40; ++round) {
    std::string text;
    for (int i = 0; i < 20000; ++i) text += static_cast<char>('a' + random() % 3);
    std::size_t best_end = std::string::npos;
    Result expected{text, ""};
    for (const std::string& stop : params.stop) {
      const std::size_t found = text.find(stop);
      if (found == std::string::npos || found + stop.size() >= best_end) continue;
      best_end = found + stop.size();
      expected = {text.substr(0, found), stop};
    }
    matches += expected.stop.empty() ? 0 : 1;
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = random() % 9;
      pieces.push_back(text.substr(at, size));
      at += size;
    }
    ASSERT_EQ(run(params, {}, pieces), expected) << "round " << round;
  }
  EXPECT_GT(matches, 5);
  EXPECT_LT(matches, 40);
}

}  // namespace
}  // namespace quern::engine
