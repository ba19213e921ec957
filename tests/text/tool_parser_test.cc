// Tool call parser: vLLM's vectors, each at every cut; salvage of bad calls; hostile output.
#include "quern/text/tool_parser.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quern/text/tool_parser_python.h"
#include "tests/text/parser_vectors.h"

namespace quern {
namespace {

std::string E(const std::string& name, const std::string& body) {
  return test::kMarker + "<" + name + ">" + body + test::kMarker + "</" + name + ">";
}
std::string invoke(const std::string& body, const std::string& name = "create_order") {
  return test::kMarker + "<invoke name=\"" + name + "\">" + body + test::kMarker + "</invoke>";
}
std::string block(const std::string& invokes) {
  return test::kMarker + "<tool_call>\n" + invokes + "\n" + test::kMarker + "</tool_call>";
}

Json order_tools() {
  return Json::parse(R"([{"type": "function", "function": {"name": "create_order", "parameters": {
    "type": "object", "properties": {
      "user_id": {"type": "integer"},
      "note": {"type": "string"},
      "tags": {"type": "array", "items": {"type": "string"}},
      "shipping": {"type": "object", "properties": {"zip": {"type": "integer"}}},
      "either": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}]},
      "free": {"type": "object"}}}}}])");
}

struct Result {
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments

  bool operator==(const Result&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Result& result) {
  out << "content '" << result.content << "'";
  for (const auto& [name, arguments] : result.calls) out << "; " << name << " " << arguments;
  return out;
}

void add(Result& result, const std::vector<ToolEvent>& events) {
  for (const ToolEvent& event : events) {
    switch (event.kind) {
      case ToolEvent::Kind::kContent:
        result.content += event.text;
        break;
      case ToolEvent::Kind::kCallStart:
        ASSERT_EQ(event.call, result.calls.size());
        result.calls.emplace_back(event.text, "");
        break;
      case ToolEvent::Kind::kArguments:
        ASSERT_EQ(event.call + 1, result.calls.size());
        result.calls.back().second += event.text;
        break;
    }
  }
}

Result parse(const std::vector<std::string>& pieces, const Json& tools,
             ArgumentStreaming streaming = ArgumentStreaming::kWhole) {
  ToolCallParser parser(tools, streaming);
  Result result;
  for (const std::string& piece : pieces) add(result, parser.feed(piece));
  add(result, parser.finish());
  return result;
}

void expect_at_every_cut(const std::string& text, const Json& tools, const Result& expected,
                         ArgumentStreaming streaming = ArgumentStreaming::kWhole) {
  SCOPED_TRACE(text.substr(0, 500));
  ASSERT_EQ(parse({text}, tools, streaming), expected);
  ASSERT_EQ(parse(test::single_bytes(text), tools, streaming), expected);
  if (text.size() > 2000) return;
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    ASSERT_EQ(parse({text.substr(0, cut), text.substr(cut)}, tools, streaming), expected) << cut;
  }
}

std::string nested(int depth) {
  std::string body = "v";
  for (int i = 1; i < depth; ++i) body = E("n", body);
  return E("free", body);
}

struct BodyCase {
  std::string body;
  std::string arguments;
};

// tests/golden/text/tool_parser.json: one row a case.
const Json& golden() {
  static const Json rows = test::read_vectors("tool_parser.json");
  return rows;
}

TEST(ToolCallParser, BodiesAtEveryCut) {
  EXPECT_GE(golden()["bodies"].size(), 40U);
  for (const Json& row : golden()["bodies"]) {
    SCOPED_TRACE(row.dump().substr(0, 300));
    const std::string name = row.value("name", "create_order");
    const std::string body = row["body"].is_object() ? nested(row["body"]["depth"].get<int>())
                                                     : test::with_markers(row["body"]);
    expect_at_every_cut(block(invoke(body, name)), golden()["tools"],
                        {"", {{name, row["arguments"].get<std::string>()}}});
  }
}

TEST(ToolCallParser, OutputsAtEveryCut) {
  EXPECT_GE(golden()["outputs"].size(), 35U);
  for (const Json& row : golden()["outputs"]) {
    SCOPED_TRACE(row.dump());
    Result expected{test::with_markers(row["content"]), {}};
    for (const Json& call : row["calls"]) expected.calls.emplace_back(call[0], call[1]);
    expect_at_every_cut(test::with_markers(row["output"]), golden()["tools"], expected);
  }
}

TEST(ToolCallParser, LeafCoercion) {
  EXPECT_GE(golden()["leaves"].size(), 70U);
  for (const Json& row : golden()["leaves"]) {
    Json tools = Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters":
        {"properties": {"p": null}}}}])");
    tools[0]["function"]["parameters"]["properties"]["p"] = row["schema"];
    const std::string text = block(invoke(E("p", row["text"].get<std::string>()), "f"));
    EXPECT_EQ(parse({text}, tools),
              (Result{"", {{"f", "{\"p\": " + row["value"].get<std::string>() + "}"}}}))
        << row.dump();
  }
}

TEST(ToolCallParser, LongNumbersKeepTheirDigitsUpToPythonsLimit) {
  const std::string allowed(4300, '7');
  EXPECT_EQ(python::to_int(allowed), allowed);
  EXPECT_EQ(python::to_int(allowed + "7"), std::nullopt);
}

TEST(ToolCallParser, FindsSchemas) {
  const Json responses_form = Json::parse(
      R"([3, {"type": "web_search"}, {"type": "function", "name": "f", "parameters": {"properties": {"p": {"type": "integer"}}}},
          {"type": "function", "name": "f", "parameters": {}}])");
  const std::string text = block(invoke(E("p", "7") + E("q", "7"), "f"));
  EXPECT_EQ(parse({text}, responses_form).calls[0].second, R"({"p": 7, "q": "7"})");
  for (const char* tools :
       {"null", "{}", "[]", "[{}]", R"([{"function": 1}])", R"([{"function": {"name": "f"}}])",
        R"([{"function": {"name": "f", "parameters": 7}}])",
        R"([{"function": {"name": "f", "parameters": {"properties": []}}}])",
        R"([{"function": {"name": ["f"], "parameters": {}}}])"}) {
    EXPECT_EQ(parse({text}, Json::parse(tools)).calls[0].second, R"({"p": "7", "q": "7"})")
        << tools;
  }
}

TEST(ToolCallParser, NameIsSentAtOnceAndArgumentsAtTheEnd) {
  ToolCallParser parser(order_tools());
  const std::string text = block(invoke(E("user_id", "42") + E("tags", "")));
  const std::size_t name_end = text.find("create_order\">") + 14;
  const std::size_t end = text.find(test::kMarker + "</invoke>");
  EXPECT_EQ(parser.feed("Sure. "),
            (std::vector<ToolEvent>{{ToolEvent::Kind::kContent, 0, "Sure. "}}));
  EXPECT_EQ(parser.feed(text.substr(0, name_end)),
            (std::vector<ToolEvent>{{ToolEvent::Kind::kCallStart, 0, "create_order"}}));
  EXPECT_TRUE(parser.feed(text.substr(name_end, end - name_end)).empty());
  EXPECT_EQ(
      parser.feed(text.substr(end)),
      (std::vector<ToolEvent>{{ToolEvent::Kind::kArguments, 0, R"({"user_id": 42, "tags": []})"}}));
  EXPECT_TRUE(parser.finish().empty());
}

// vLLM issues 39649 and 45701: clients want to see long arguments grow.
TEST(ToolCallParser, EagerArgumentsArriveWithTheText) {
  ToolCallParser parser(order_tools(), ArgumentStreaming::kEager);
  const auto feed = [&](const std::string& text) {
    std::string pieces;
    for (const ToolEvent& event : parser.feed(text)) pieces += event.text;
    return pieces;
  };
  EXPECT_EQ(feed(test::kMarker + "<tool_call>" + test::kMarker + "<invoke name=\"create_order\">"),
            "create_order");
  EXPECT_EQ(feed(test::kMarker + "<user_id>4"), "");
  EXPECT_EQ(feed("2"), "");
  EXPECT_EQ(feed(test::kMarker + "</user_id>"), R"({"user_id": 42)");
  EXPECT_EQ(feed(test::kMarker + "<note>a\"b"), R"(, "note": "a\"b)");
  EXPECT_EQ(feed("\n]<]"), R"(\n)");
  EXPECT_EQ(feed("c" + test::kMarker + "</no"), R"(]<]c)");
  EXPECT_EQ(feed("te>"), "\"");
  EXPECT_EQ(feed(E("tags", E("item", "x"))), R"(, "tags": ["x"])");
  EXPECT_EQ(feed(test::kMarker + "</invoke>"), "}");
}

TEST(ToolCallParser, EagerArgumentsAtEveryCut) {
  // Where a later part of the call changes an earlier one, the name is sent again; the last one
  // counts.
  const std::vector<BodyCase> cases = {
      {E("user_id", "1") + E("note", "x") + E("free", E("a", "1")),
       R"({"user_id": 1, "note": "x", "free": {"a": "1"}})"},
      {"", "{}"},
      {E("note", ""), R"({"note": ""})"},
      {E("note", "a") + E("user_id", "1") + E("note", "b"),
       R"({"note": "a", "user_id": 1, "note": ["a", "b"]})"},
      {E("note", "x" + E("b", "y") + "z"), R"({"note": "x", "note": {"b": "y", "$text": "xz"}})"},
      {E("note", E("b", "y")), R"({"note": {"b": "y"}})"},
      {E("user_id", "1") + test::kMarker + "<note>a" + test::kMarker + "</other>",
       R"({"user_id": 1, "note": "a"})"},
      {test::kMarker + "<note>cut off", R"({"note": "cut off"})"},
      {"first" + test::kMarker + "</note>" + E("user_id", "1"),
       R"({"note": "first", "user_id": 1})"},
  };
  for (const BodyCase& c : cases) {
    expect_at_every_cut(block(invoke(c.body)), order_tools(), {"", {{"create_order", c.arguments}}},
                        ArgumentStreaming::kEager);
  }
}

TEST(ToolCallParser, EagerEqualsWholeForWellFormedCalls) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::vector<std::string> texts = {"",     " ",      "7",          "x\n\"y\"",
                                          "null", "\u6f22", "{\"a\": 1}", "]<]"};
  for (int round = 0; round < 2000; ++round) {
    std::string body;
    for (const char* name : {"user_id", "note", "tags", "either", "other"}) {
      if (random() % 2 != 0) body += E(name, texts[random() % texts.size()]);
      if (random() % 4 == 0) body += "\n";
    }
    if (random() % 2 != 0) body += E("free", " " + E("a", texts[random() % texts.size()]));
    const std::string text = block(invoke(body));
    const Json tools = order_tools();
    ASSERT_EQ(parse({text}, tools, ArgumentStreaming::kEager), parse({text}, tools)) << body;
  }
}

TEST(ToolCallParser, MarkerSoupDoesNotDependOnCuts) {
  const std::vector<std::string> tokens = {test::kMarker,
                                           test::kMarker + "<tool_call>",
                                           test::kMarker + "</tool_call>",
                                           test::kMarker + "<invoke name=\"create_order\">",
                                           test::kMarker + "<invoke name=",
                                           "'x'>",
                                           test::kMarker + "</invoke>",
                                           test::kMarker + "<note>",
                                           test::kMarker + "</note>",
                                           test::kMarker + "<user_id>",
                                           test::kMarker + "</user_id>",
                                           test::kMarker + "<",
                                           test::kMarker + "</",
                                           ">",
                                           "<",
                                           "]",
                                           "]<]mini",
                                           "a",
                                           "1",
                                           " ",
                                           "\u3000",
                                           "\"",
                                           "max[>[",
                                           E("user_id", "3"),
                                           E("note", "t")};
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const Json tools = order_tools();
  for (int round = 0; round < 10000; ++round) {
    std::string text = round % 2 == 0 ? ""
                                      : test::kMarker + "<tool_call>" + test::kMarker +
                                            "<invoke name=\"create_order\">";
    for (auto n = random() % 20; n > 0; --n) text += tokens[random() % tokens.size()];
    const auto mode = random() % 2 == 0 ? ArgumentStreaming::kWhole : ArgumentStreaming::kEager;
    const Result whole = parse({text}, tools, mode);
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 17));
      at += pieces.back().size();
    }
    ASSERT_EQ(parse(pieces, tools, mode), whole) << text;
    ASSERT_EQ(parse(test::single_bytes(text), tools, mode), whole) << text;
    for (const auto& [name, arguments] : whole.calls) {
      const Json parsed = Json::parse(arguments, nullptr, /*allow_exceptions=*/false);
      ASSERT_TRUE(parsed.is_object()) << text << "\n" << arguments;
    }
  }
}

TEST(ToolCallParser, AnyBytesAreAccepted) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    std::string junk(random() % 60, '\0');
    for (char& c : junk) c = static_cast<char>(random() % 256);
    const std::string text = junk + block(invoke(junk + E("note", junk) + E("user_id", junk)));
    ASSERT_EQ(parse(test::single_bytes(text), order_tools()), parse({text}, order_tools()));
  }
}

std::string repeat(const std::string& text, std::size_t times) {
  std::string all;
  all.reserve(text.size() * times);
  for (std::size_t i = 0; i < times; ++i) all += text;
  return all;
}

// Each text is about 1 MB. Quadratic work would be 10^12 steps; the limit is loose for slow
// machines and sanitizers.
TEST(ToolCallParser, HostileOutputTakesLinearTime) {
  const std::string open =
      test::kMarker + "<tool_call>" + test::kMarker + "<invoke name=\"create_order\">";
  std::string dollars;
  for (std::string name = "$text"; dollars.size() < 1000000; name.insert(0, 1, '$'))
    dollars += E(name, "");
  const std::vector<std::pair<std::string, std::string>> outputs = {
      {"opening tags", open + repeat(test::kMarker + "<a>", 70000)},
      {"block starts", repeat(test::kMarker + "<tool_call>", 45000)},
      {"invokes", open + repeat(test::kMarker + "<invoke name=x>", 35000)},
      {"markers", open + repeat(test::kMarker, 80000)},
      {"bare content markers", repeat(test::kMarker, 80000)},
      {"half markers", open + test::kMarker + "<note>" + repeat("]<]minimax[>", 90000)},
      {"endless tag", open + test::kMarker + "<" + repeat("a", 1000000)},
      {"endless name",
       test::kMarker + "<tool_call>" + test::kMarker + "<invoke name=\"" + repeat("a", 1000000)},
      {"siblings", open + test::kMarker + "<free>" + repeat(E("a", "1"), 30000) + test::kMarker +
                       "</free>" + test::kMarker + "</invoke>"},
      {"parameters", open + repeat(E("note", "1"), 25000) + test::kMarker + "</invoke>"},
      {"long text", open + E("note", repeat("a\n", 500000)) + test::kMarker + "</invoke>"},
      {"blanks", open + repeat("\u3000", 330000) + test::kMarker + "</invoke>"},
      {"number", open + E("user_id", repeat("9", 1000000)) + test::kMarker + "</invoke>"},
      {"spaces", open + E("user_id", repeat("\u2003", 330000) + "x") + test::kMarker + "</invoke>"},
      {"deep JSON", open + E("tags", repeat("[", 1000000)) + test::kMarker + "</invoke>"},
      {"JSON members", open + E("free", "{" + repeat("\"a\": 1, ", 100000) + "\"b\": 1}") +
                           test::kMarker + "</invoke>"},
      {"mixed text names", open + E("free", "x" + dollars) + test::kMarker + "</invoke>"},
  };
  const Json tools = order_tools();
  for (const auto& [name, text] : outputs) {
    for (const auto mode : {ArgumentStreaming::kWhole, ArgumentStreaming::kEager}) {
      const auto start = std::chrono::steady_clock::now();
      const Result whole = parse({text}, tools, mode);
      const Result piecewise = parse(test::single_bytes(text), tools, mode);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_EQ(whole, piecewise) << name;
      EXPECT_LT(seconds.count(), 20) << name;
    }
  }
}

}  // namespace
}  // namespace quern
