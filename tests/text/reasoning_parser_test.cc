// Reasoning parser: vLLM's vectors, each at every cut, and the ways in which a stream can end.
#include "quern/text/reasoning_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/text/parser_vectors.h"

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

bool enabled(const Json& row) { return row.contains("thinking_mode"); }

// tests/golden/text/reasoning_parser.json: one row a case.
TEST(ReasoningParser, VectorsAtEveryCut) {
  const Json rows = test::read_vectors("reasoning_parser.json")["outputs"];
  EXPECT_GE(rows.size(), 25U);
  for (const Json& row : rows) {
    const auto output = row["output"].get<std::string>();
    SCOPED_TRACE(output);
    const ReasoningDelta expected{row["reasoning"], row["content"]};
    EXPECT_EQ(parse(enabled(row), {output}), expected);
    EXPECT_EQ(parse(enabled(row), test::single_bytes(output)), expected);
    for (std::size_t cut = 0; cut <= output.size(); ++cut) {
      ASSERT_EQ(parse(enabled(row), {output.substr(0, cut), output.substr(cut)}), expected) << cut;
    }
  }
}

TEST(ReasoningParser, EndOfReasoningAfterEachDelta) {
  const Json rows = test::read_vectors("reasoning_parser.json")["streams"];
  EXPECT_GE(rows.size(), 8U);
  for (const Json& row : rows) {
    const auto deltas = row["deltas"].get<std::vector<std::string>>();
    ReasoningParser parser(enabled(row));
    std::string ended;  // T or F after each delta
    for (const std::string& delta : deltas) {
      parser.feed(delta);
      ended += parser.reasoning_ended() ? 'T' : 'F';
    }
    EXPECT_EQ(ended, row["ended"]) << row.dump();
    EXPECT_EQ(parse(enabled(row), deltas), (ReasoningDelta{row["reasoning"], row["content"]}))
        << row.dump();
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
