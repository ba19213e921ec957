// Reasoning parser: vLLM's vectors, each at every cut, and the ways in which a stream can end.
#include "quern/text/reasoning_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace quern {
namespace {

ReasoningDelta parse(bool enabled, const std::vector<std::string>& pieces) {
  ReasoningParser parser(enabled);
  ReasoningDelta all;
  const auto add = [&](const ReasoningDelta& delta) {
    all.reasoning += delta.reasoning;
    all.content += delta.content;
  };
  for (const std::string& piece : pieces) add(parser.feed(piece));
  add(parser.finish());
  return all;
}

std::vector<std::string> bytes(const std::string& text) {
  std::vector<std::string> pieces;
  for (const char c : text) pieces.emplace_back(1, c);
  return pieces;
}

struct Case {
  bool enabled;
  std::string output;
  std::string reasoning;
  std::string content;
};

// tests/reasoning/test_minimax_m3_reasoning_parser.py of vLLM, then our own.
const std::vector<Case> kCases = {
    {false, "<mm:think>plan</mm:think>answer", "plan", "answer"},
    {false, "plain answer", "", "plain answer"},
    {false, "</mm:think>answer", "", "answer"},
    {false, "XXX</mm:think>YYY", "", "XXX</mm:think>YYY"},
    {true, "plan</mm:think>answer", "plan", "answer"},
    {false, "<mm:think>still thinking", "still thinking", ""},
    {false, "<mm:think>Reasoning content</mm:think>content", "Reasoning content", "content"},
    // Cut by max_tokens inside reasoning.
    {true, "still thinking", "still thinking", ""},
    {true, "", "", ""},
    {false, "", "", ""},
    // Text around the reasoning is kept, white space too.
    {false, "before <mm:think> r </mm:think>\n after", " r ", "before \n after"},
    {false, "before<mm:think>rest", "rest", "before"},
    // Only the first pair counts.
    {false, "<mm:think>a</mm:think>b<mm:think>c</mm:think>", "a", "b<mm:think>c</mm:think>"},
    {false, "</mm:think>a<mm:think>b", "", "a<mm:think>b"},
    {true, "a</mm:think>b</mm:think>c", "a", "b</mm:think>c"},
    // The model repeats the tag that the prompt ended with.
    {true, "<mm:think>plan</mm:think>answer", "plan", "answer"},
    {true, "a <mm:think> b</mm:think>c", "a <mm:think> b", "c"},
    {true, "</mm:think>answer", "", "answer"},
    // Held text is sent when the stream ends.
    {false, "answer<mm:thi", "", "answer<mm:thi"},
    {false, "</mm:thin", "", "</mm:thin"},
    {true, "plan</mm:think", "plan</mm:think", ""},
    {true, "<mm:", "<mm:", ""},
    // False starts.
    {false, "<<mm:think><</mm:think>x", "<", "<x"},
    {false, "<mm:<mm:think>r</mm:</mm:think>x", "r</mm:", "<mm:x"},
    {false, "Gr\u00fc\u00dfe <mm:think>\u6f22\u5b57</mm:think>\U0001f600", "\u6f22\u5b57",
     "Gr\u00fc\u00dfe \U0001f600"},
};

TEST(ReasoningParser, VectorsAtEveryCut) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.output);
    const ReasoningDelta expected{c.reasoning, c.content};
    EXPECT_EQ(parse(c.enabled, {c.output}), expected);
    EXPECT_EQ(parse(c.enabled, bytes(c.output)), expected);
    for (std::size_t cut = 0; cut <= c.output.size(); ++cut) {
      ASSERT_EQ(parse(c.enabled, {c.output.substr(0, cut), c.output.substr(cut)}), expected) << cut;
    }
  }
}

TEST(ReasoningParser, EndOfReasoningAfterEachDelta) {
  struct Stream {
    bool enabled;
    std::vector<std::string> deltas;
    std::string ended;  // T or F after each delta
  };
  const std::vector<Stream> streams = {
      {false, {"<mm:think>", "plan", "</mm:think>", "answer"}, "FFTT"},
      {false, {"<mm:think>plan</mm:think>answer"}, "T"},
      {false, {"</mm:think>", "answer"}, "TT"},
      {false, {"XXX</mm:think>YYY"}, "T"},
      {true, {"plan", "</mm:think>", "answer"}, "FTT"},
      {false, {"plain ", "answer"}, "TT"},
      {false, {"<mm:", "think>", "Reasoning", " content", "</mm:", "think>", "content"}, "FFFFFTT"},
      {false, {"</mm:", "think>", "content"}, "FTT"},
  };
  for (const Stream& stream : streams) {
    ReasoningParser parser(stream.enabled);
    std::string ended;
    for (const std::string& delta : stream.deltas) {
      parser.feed(delta);
      ended += parser.reasoning_ended() ? 'T' : 'F';
    }
    EXPECT_EQ(ended, stream.ended) << stream.deltas.front();
  }
}

// vLLM issues 46042 and 45687: the mode comes from the merged arguments or the end of the prompt.
TEST(ReasoningParser, ModeIsNeverSearchedInThePrompt) {
  const Json none = Json::object();
  const std::string system =
      "wrap your reasoning in <mm:think></mm:think> tags ... </mm:think> prefix";
  EXPECT_FALSE(starts_in_reasoning(none, system + "]~b]ai\n"));
  EXPECT_FALSE(starts_in_reasoning(none, system + "]~b]ai\n</mm:think>"));
  EXPECT_FALSE(starts_in_reasoning(none, "<mm:think>\n"));
  EXPECT_TRUE(starts_in_reasoning(none, system + "]~b]ai\n<mm:think>"));
  EXPECT_TRUE(starts_in_reasoning(Json{{"thinking_mode", "enabled"}}, "]~b]ai\n"));
  EXPECT_FALSE(starts_in_reasoning(Json{{"thinking_mode", "disabled"}}, "]~b]ai\n"));
  EXPECT_FALSE(starts_in_reasoning(Json{{"thinking_mode", "adaptive"}}, "]~b]ai\n"));
  EXPECT_FALSE(starts_in_reasoning(Json{{"thinking_mode", true}}, "]~b]ai\n"));
  EXPECT_FALSE(starts_in_reasoning(Json(), ""));
}

TEST(ReasoningParser, MarkerSoupDoesNotDependOnCuts) {
  const std::vector<std::string> tokens = {"<mm:think>", "</mm:think>", "<", "</", "mm:", "think>",
                                           "<mm:",       "</mm:t",      "a", " ",  "\n"};
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (auto n = random() % 12; n > 0; --n) text += tokens[random() % tokens.size()];
    const bool enabled = random() % 2 != 0;
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 9));
      at += pieces.back().size();
    }
    const ReasoningDelta whole = parse(enabled, {text});
    ASSERT_EQ(parse(enabled, pieces), whole) << text;
    // Nothing is lost but at most one marker of each kind.
    const std::size_t lost = text.size() - whole.reasoning.size() - whole.content.size();
    ASSERT_TRUE(lost == 0 || lost == kThinkStart.size() || lost == kThinkEnd.size() ||
                lost == kThinkStart.size() + kThinkEnd.size())
        << text;
  }
}

}  // namespace
}  // namespace quern
