// The chain of reasoning and tool call parser: whole messages at every cut, and what a client sees.
#include "quern/text/output_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/text/parser_vectors.h"

namespace quern {
namespace {

const std::string kCall = test::kMarker + "<tool_call>\n" + test::kMarker + "<invoke name=\"f\">" +
                          test::kMarker + "<p>7" + test::kMarker + "</p>" + test::kMarker +
                          "</invoke>\n" + test::kMarker + "</tool_call>";

Json tools() {
  return Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters":
      {"type": "object", "properties": {"p": {"type": "integer"}}}}}])");
}

// Without the random ids.
std::string describe(const ParsedOutput& output) {
  std::string text = "reasoning=" + output.reasoning.value_or("null") +
                     "|content=" + output.content.value_or("null");
  for (const ParsedToolCall& call : output.tool_calls) text += "|" + call.name + call.arguments;
  return text;
}

std::string parse_pieces(const std::vector<std::string>& pieces,
                         const OutputParserOptions& options) {
  OutputParser parser(options, tools());
  ParsedOutput output;
  for (const std::string& piece : pieces) append_events(output, parser.feed(piece));
  append_events(output, parser.finish());
  return describe(output);
}

const OutputParserOptions kAdaptive;
const OutputParserOptions kEnabled = {.starts_in_reasoning = true};

// tests/golden/text/reasoning_parser.json, "messages": one row a case.
TEST(OutputParser, MessagesAtEveryCut) {
  const Json rows = test::read_vectors("reasoning_parser.json")["messages"];
  EXPECT_GE(rows.size(), 19U);
  for (const Json& row : rows) {
    SCOPED_TRACE(row.dump());
    const OutputParserOptions options = {.parse_reasoning = row.value("reasoning", true),
                                         .starts_in_reasoning = row.contains("thinking_mode"),
                                         .parse_tools = row.value("tools", true)};
    const std::string output = test::with_markers(row["output"]);
    const std::string expected = test::with_markers(row["expected"]);
    EXPECT_EQ(describe(parse_output(output, options, tools())), expected);
    for (std::size_t cut = 0; cut <= output.size(); ++cut) {
      ASSERT_EQ(parse_pieces({output.substr(0, cut), output.substr(cut)}, options), expected)
          << cut;
    }
    std::vector<std::string> bytes;
    for (const char byte : output) bytes.emplace_back(1, byte);
    EXPECT_EQ(parse_pieces(bytes, options), expected);
  }
}

TEST(OutputParser, EventsOfOneAnswer) {
  OutputParser parser(kEnabled, tools());
  using Kind = OutputEvent::Kind;
  auto events = parser.feed("r</mm:think>c");
  ASSERT_EQ(events.size(), 2u);  // one delta may carry both
  EXPECT_EQ(events[0].kind, Kind::kReasoning);
  EXPECT_EQ(events[1].kind, Kind::kContent);
  EXPECT_TRUE(parser.reasoning_ended());

  events = parser.feed(kCall + kCall);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].kind, Kind::kToolCallStart);
  EXPECT_EQ(events[0].text, "f");
  EXPECT_EQ(events[1].kind, Kind::kToolArguments);
  EXPECT_EQ(events[1].text, R"({"p": 7})");
  EXPECT_EQ(events[2].tool_index, 1u);
  EXPECT_EQ(events[3].tool_index, 1u);
  const std::string& id = events[0].tool_call_id;
  ASSERT_EQ(id.size(), 14u + 32u);
  EXPECT_EQ(id.substr(0, 14), "chatcmpl-tool-");
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef", 14), std::string::npos) << id;
  EXPECT_NE(events[0].tool_call_id, events[2].tool_call_id);
  EXPECT_EQ(parser.tool_calls(), 2u);
  EXPECT_TRUE(parser.finish().empty());
}

TEST(OutputParser, MarkerSoupDoesNotDependOnCuts) {
  const std::vector<std::string> tokens = {"<mm:think>",
                                           "</mm:think>",
                                           kCall,
                                           test::kMarker + "<tool_call>",
                                           test::kMarker,
                                           test::kMarker + "<invoke name=\"f\">",
                                           test::kMarker + "</invoke>",
                                           test::kMarker + "<p>1",
                                           test::kMarker + "</p>",
                                           "<mm:",
                                           "]<]",
                                           " ",
                                           "\u3000",
                                           "\xe3",
                                           "x"};
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (auto n = random() % 12; n > 0; --n) text += tokens[random() % tokens.size()];
    OutputParserOptions options = random() % 2 != 0 ? kAdaptive : kEnabled;
    options.arguments = random() % 2 != 0 ? ArgumentStreaming::kEager : ArgumentStreaming::kWhole;
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 13));
      at += pieces.back().size();
    }
    ASSERT_EQ(parse_pieces(pieces, options), describe(parse_output(text, options, tools())))
        << text;
  }
}

}  // namespace
}  // namespace quern
