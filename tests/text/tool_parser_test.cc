// Tool call parser: vLLM's vectors, each at every cut; salvage of bad calls; hostile output.
#include "quern/text/tool_parser.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quern/text/tool_parser_python.h"

namespace quern {
namespace {

const std::string NS(kToolNamespace);

std::string E(const std::string& name, const std::string& body) {
  return NS + "<" + name + ">" + body + NS + "</" + name + ">";
}
std::string invoke(const std::string& body, const std::string& name = "create_order") {
  return NS + "<invoke name=\"" + name + "\">" + body + NS + "</invoke>";
}
std::string block(const std::string& invokes) {
  return NS + "<tool_call>\n" + invokes + "\n" + NS + "</tool_call>";
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

std::vector<std::string> bytes(const std::string& text) {
  std::vector<std::string> pieces;
  for (const char c : text) pieces.emplace_back(1, c);
  return pieces;
}

void expect_at_every_cut(const std::string& text, const Json& tools, const Result& expected,
                         ArgumentStreaming streaming = ArgumentStreaming::kWhole) {
  SCOPED_TRACE(text.substr(0, 500));
  ASSERT_EQ(parse({text}, tools, streaming), expected);
  ASSERT_EQ(parse(bytes(text), tools, streaming), expected);
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
  std::string name = "create_order";
};

// tests/parser/engine/test_minimax_m3.py of vLLM, then what each rule of the grammar adds.
const std::vector<BodyCase> kBodies = {
    {E("tags", E("item", "a") + E("item", "b")) + E("shipping", E("zip", "018956")) +
         E("either", E("item", "1") + E("item", "2")) + E("free", E("t", "x") + E("t", "y")),
     R"({"tags": ["a", "b"], "shipping": {"zip": 18956}, "either": [1, 2], "free": {"t": ["x", "y"]}})"},
    {E("tags", "") + E("shipping", "") + E("note", "") + E("either", ""),
     R"({"tags": [], "shipping": {}, "note": "", "either": ""})"},
    {E("n", "1") + E("list", E("item", "a") + E("item", "b")),
     R"({"n": "1", "list": {"item": ["a", "b"]}})", "other"},
    {E("free", "hi " + E("k", "v") + " there") + E("shipping", "x" + E("$text", "child")),
     R"({"free": {"k": "v", "$text": "hi  there"}, "shipping": {"$text": "child", "$$text": "x"}})"},
    {E("note", "\n  a <b> & c\n") + E("user_id", " 7 "),
     R"({"note": "\n  a <b> & c\n", "user_id": 7})"},
    {E("free", E("tool_call", "v")), R"({"free": {"tool_call": "v"}})"},
    {E("user_id", "1") + "junk" + E("note", "dropped"), R"({"user_id": 1})"},
    {E("user_id", "1") + NS + "<note>a" + NS + "</other>", R"({"user_id": 1})"},
    {E("user_id", "1") + NS + "<note>unterminated", R"({"user_id": 1})"},
    {nested(129), "{}"},
    {"", "{}"},
    {" \n\u3000\u2003", "{}"},
    // The top level is an object too: a repeated parameter becomes a list.
    {E("note", "a") + E("user_id", "1") + E("note", "b") + E("note", "c"),
     R"({"note": ["a", "b", "c"], "user_id": 1})"},
    // White space between parameters, any of Python's.
    {"\n " + E("user_id", "1") + "\u00a0\u3000\n" + E("note", "x") + " ",
     R"({"user_id": 1, "note": "x"})"},
    // Names.
    {E("user_id", "1") + NS + "<>x" + NS + "</>", R"({"user_id": 1})"},
    {E("user_id", "1") + NS + "< >x" + NS + "</ >", R"({"user_id": 1})"},
    {E("user_id", "1") + NS + "</note>", R"({"user_id": 1})"},
    {E("-A", "1") + E("\u540d \"q\"", "2"), "{\"-A\": \"1\", \"\u540d \\\"q\\\"\": \"2\"}"},
    {NS + "<note", "{}"},
    {E("user_id", "1") + NS + "<no" + E("note", "x"), R"({"user_id": 1})"},
    {E("tool_call", "1"), R"({"tool_call": "1"})"},
    // A namespace marker inside an element that begins no tag.
    {E("user_id", "1") + E("note", "a" + NS + "b"), R"({"user_id": 1})"},
    // Almost markers are text.
    {E("note", "]<]mini]<]<>[</note>"), R"({"note": "]<]mini]<]<>[</note>"})"},
    // Mixed text in a list is one more item; blank text is none.
    {E("tags", " " + E("item", "a") + "\n") + E("either", "x" + E("item", "1")),
     R"({"tags": ["a"], "either": [1, "x"]})"},
    {E("note", E("b", "x")), R"({"note": {"b": "x"}})"},
    // The missing opening tag of the first parameter (vLLM PR 51075): with and without its marker.
    {NS + "offerta.docx" + NS + "</note>" + E("user_id", "5"),
     R"({"note": "offerta.docx", "user_id": 5})"},
    {"offerta.docx" + NS + "</note>" + E("user_id", "5"),
     R"({"note": "offerta.docx", "user_id": 5})"},
    {"\n 42 " + NS + "</user_id>" + E("note", "x"), R"({"user_id": 42, "note": "x"})"},
    {NS + NS + "</note>", R"({"note": ""})"},
    {NS + " " + NS + "</tags>" + E("note", "x"), R"({"tags": [], "note": "x"})"},
    {"text" + E("note", "x"), "{}"},
    {"text" + NS + "</tool_call>", "{}"},
    {"text" + NS + "</>" + E("note", "x"), "{}"},
    {E("user_id", "1") + NS + "late" + NS + "</note>", R"({"user_id": 1})"},
    // The escapes of json.dumps(ensure_ascii=False).
    {E("note", "\"\\/\b\f\n\r\t\x01\x1f\x7f\u00e9\u2028\U0001f600"),
     "{\"note\": \"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\u00e9\u2028\U0001f600\"}"},
};

TEST(ToolCallParser, BodiesAtEveryCut) {
  const Json tools = order_tools();
  for (const BodyCase& c : kBodies) {
    expect_at_every_cut(block(invoke(c.body, c.name)), tools, {"", {{c.name, c.arguments}}});
  }
}

TEST(ToolCallParser, DepthLimit) {
  const Result deep = parse({block(invoke(nested(128)))}, order_tools());
  ASSERT_EQ(deep.calls.size(), 1u);
  std::string expected = "\"v\"";
  for (int i = 1; i < 128; ++i) expected = "{\"n\": " + expected + "}";
  EXPECT_EQ(deep.calls[0].second, "{\"free\": " + expected + "}");
  EXPECT_EQ(parse({block(invoke(nested(129)))}, order_tools()).calls[0].second, "{}");
}

struct OutputCase {
  std::string output;
  Result expected;
};

TEST(ToolCallParser, OutputsAtEveryCut) {
  const std::string one = E("user_id", "1");
  const std::string two = E("user_id", "2");
  const std::pair<std::string, std::string> call_one = {"create_order", R"({"user_id": 1})"};
  const std::pair<std::string, std::string> call_two = {"create_order", R"({"user_id": 2})"};
  const std::string open_one = NS + "<invoke name=\"create_order\">" + one;
  const std::vector<OutputCase> cases = {
      {"Checking.\n" + block(invoke(one) + "\n" + invoke(two)),
       {"Checking.\n", {call_one, call_two}}},
      {"pre" + block(invoke("")) + "post", {"pre", {{"create_order", "{}"}}}},
      {invoke(""), {invoke(""), {}}},
      {"plain text, no markup", {"plain text, no markup", {}}},
      {"", {}},
      // Truncated: what is complete is kept, a partial start marker is content.
      {NS + "<tool_call>\n" + open_one + NS + "<note>x", {"", {call_one}}},
      {NS + "<tool_call>\n" + open_one + NS + "</invo", {"", {call_one}}},
      {NS + "<tool_call>\n" + open_one + NS, {"", {call_one}}},
      {"plain " + NS + "<tool_ca", {"plain " + NS + "<tool_ca", {}}},
      {"a]<]mini", {"a]<]mini", {}}},
      {"a" + NS + "<tool_call>", {"a", {}}},
      {"a" + NS + "<tool_call>" + NS + "<invoke name=\"create_or", {"a", {}}},
      // Names: quotes of either kind or none, blanks around; a blank name is no call.
      {block(NS + "<invoke name='create_order'>" + one + NS + "</invoke>"), {"", {call_one}}},
      {block(NS + "<invoke name=create_order>" + one + NS + "</invoke>"), {"", {call_one}}},
      {block(invoke(one, " create_order\n")), {"", {call_one}}},
      {block(invoke(one, "") + invoke(two)), {"", {call_two}}},
      {block(invoke(one, "  ") + invoke(two)), {"", {call_two}}},
      // One bad call does not spoil the next ones (vLLM PR 51075).
      {block(open_one + "junk" + invoke(two)), {"", {call_one, call_two}}},
      {block(open_one + NS + "<note>open" + invoke(two)), {"", {call_one, call_two}}},
      {block(open_one + NS + "<note" + invoke(two)), {"", {call_one, call_two}}},
      {block(NS + "<invoke name=\"broken" + invoke(two)), {"", {call_two}}},
      {block(NS + "<bad>x" + NS + "</bad>" + invoke(two)), {"", {call_two}}},
      {NS + "<tool_call>" + open_one + NS + "</tool_call>" + block(invoke(two)),
       {"", {call_one, call_two}}},
      // Text around invokes is dropped; a second block's calls are parsed.
      {block("x" + invoke(one) + "y") + " mid " + block(invoke(two)), {"", {call_one, call_two}}},
      // Calls without an end of the block, and markers outside of one.
      {NS + "<tool_call>" + invoke(one), {"", {call_one}}},
      {"a" + NS + "</tool_call>b" + NS + "</invoke>",
       {"a" + NS + "</tool_call>b" + NS + "</invoke>", {}}},
      {NS + NS + "<tool_call>" + invoke(one), {NS, {call_one}}},
      {"]<]]<" + block(invoke(one)), {"]<]]<", {call_one}}},
      // Rust parser vectors where the engine agrees.
      {"Let me check. " + block(invoke(one)) + " trailing", {"Let me check. ", {call_one}}},
  };
  const Json tools = order_tools();
  for (const OutputCase& c : cases) expect_at_every_cut(c.output, tools, c.expected);
}

// The order of the Rust parser's tests (and its other vectors), with the engine's results.
TEST(ToolCallParser, RustVectors) {
  const Json tools = Json::parse(R"([{"type": "function", "function": {"name": "t", "parameters": {
    "type": "object", "properties": {
      "user_id": {"type": "integer"}, "urgent": {"type": "boolean"}, "note": {"type": "string"},
      "shipping": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}}},
      "items": {"type": "array", "items": {"type": "object",
                "properties": {"sku": {"type": "string"}, "qty": {"type": "integer"}}}},
      "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
      "duplicate_demo": {"type": "object"},
      "shape": {"type": "string"}, "payload": {"type": "object"},
      "numbers": {"type": "array", "items": {"type": "integer"}}}}}}])");
  const auto item = [](const std::string& sku, const std::string& qty) {
    return E("item", E("sku", sku) + E("qty", qty));
  };
  const std::string order = E("user_id", "42") + "\n" + E("urgent", "true") +
                            E("note", "leave at door") +
                            E("shipping", "\n" + E("city", "Oslo") + "\n" + E("zip", "18956")) +
                            E("items", item("book-001", "2") + item("pen-002", "5")) +
                            E("metadata", E("a", "1") + E("b", "true")) +
                            E("duplicate_demo", E("tag", "a") + E("tag", "b"));
  expect_at_every_cut(
      "I will create it.\n" + block(invoke(order, "t")), tools,
      {"I will create it.\n",
       {{"t", R"({"user_id": 42, "urgent": true, "note": "leave at door", "shipping": )"
              R"({"city": "Oslo", "zip": 18956}, "items": [{"sku": "book-001", "qty": 2}, )"
              R"({"sku": "pen-002", "qty": 5}], "metadata": {"a": "1", "b": "true"}, )"
              R"("duplicate_demo": {"tag": ["a", "b"]}})"}}});
  const std::vector<BodyCase> cases = {
      {E("shape", "\nrectangle\n"), R"({"shape": "\nrectangle\n"})"},
      {E("payload", R"({"nested":true})"), R"({"payload": {"nested": true}})"},
      {E("numbers", "[1,2]"), R"({"numbers": [1, 2]})"},
      {E("numbers", E("x", "1") + E("x", "2")), R"({"numbers": [1, 2]})"},
      {E("unknown_struct", E("a", "1") + E("a", "2")), R"({"unknown_struct": {"a": ["1", "2"]}})"},
  };
  for (const BodyCase& c : cases) {
    expect_at_every_cut(block(invoke(c.body, "t")), tools, {"", {{"t", c.arguments}}});
  }
}

struct LeafCase {
  std::string schema;
  std::string text;
  std::string value;
};

// Expected values: int(), float(), json.loads and json.dumps of CPython 3.11 in vLLM's order of
// types.
const std::vector<LeafCase> kLeaves = {
    {R"({"type": "integer"})", "7", "7"},
    {R"({"type": "integer"})", " 7\u00a0", "7"},
    {R"({"type": "integer"})", "-007", "-7"},
    {R"({"type": "integer"})", "+1_000", "1000"},
    {R"({"type": "integer"})", "-0", "0"},
    {R"({"type": "integer"})", "1__0", R"("1__0")"},
    {R"({"type": "integer"})", "_1", R"("_1")"},
    {R"({"type": "integer"})", "5.0", "5.0"},  // by the JSON fallback
    {R"({"type": "integer"})", "abc", R"("abc")"},
    {R"({"type": "integer"})", "", R"("")"},
    {R"({"type": "integer"})", "123456789012345678901234567890", "123456789012345678901234567890"},
    {R"({"type": "integer"})", "-9223372036854775809", "-9223372036854775809"},
    {R"({"type": "integer"})", "true", "true"},
    {R"({"type": "number"})", "5.0", "5"},
    {R"({"type": "number"})", " 5.50 ", "5.5"},
    {R"({"type": "number"})", "1e22", "10000000000000000000000"},
    {R"({"type": "number"})", "1e23", "99999999999999991611392"},
    {R"({"type": "number"})", "1.5e-7", "1.5e-07"},
    {R"({"type": "number"})", "0.0001", "0.0001"},
    {R"({"type": "number"})", "-0.0", "0"},
    {R"({"type": "number"})", "1_0.5", "10.5"},
    {R"({"type": "number"})", ".5", "0.5"},
    {R"({"type": "number"})", "1.", "1"},
    {R"({"type": "number"})", "inf", R"("inf")"},
    {R"({"type": "number"})", "NaN", R"("NaN")"},
    {R"({"type": "number"})", "1e400", R"("1e400")"},
    {R"({"type": "number"})", "0x10", R"("0x10")"},
    {R"({"type": "number"})", "5e-324", "5e-324"},
    {R"({"type": "boolean"})", " TRUE ", "true"},
    {R"({"type": "boolean"})", "0", "false"},
    {R"({"type": "boolean"})", "yes", R"("yes")"},
    {R"({"type": "boolean"})", "2", "2"},
    {R"({"type": "null"})", "NULL", "null"},
    {R"({"type": "string"})", "null", R"("null")"},
    {R"({"type": ["string", "null"]})", "Null", "null"},
    {R"({"type": ["string", "null"]})", " null", R"(" null")"},
    {R"({"type": ["string", "integer"]})", "7", "7"},
    {R"({"type": ["boolean", "integer"]})", "1", "1"},
    {R"({"type": "object"})", R"({"b":1,"a":[1.0,1E5,null],"b":2})",
     R"({"b": 2, "a": [1.0, 100000.0, null]})"},
    {R"({"type": "object"})", "[1,2]", "[1, 2]"},
    {R"({"type": "object"})", "{bad", R"("{bad")"},
    {R"({"type": "object"})", " \n", "{}"},
    {R"({"type": "array"})", R"([123456789012345678901234567890, -0, -0.0, 1e16, 0.00001])",
     "[123456789012345678901234567890, 0, -0.0, 1e+16, 1e-05]"},
    {R"({"type": "array"})", "[1e400]", R"("[1e400]")"},
    {R"({"type": "array"})", "[NaN]", R"("[NaN]")"},
    {R"({"type": "array"})", "\xef\xbb\xbf[1]", "\"\xef\xbb\xbf[1]\""},
    {R"({"items": {}})", "", "\"\""},  // no type: also a string
    {R"({"type": "str"})", "7", R"("7")"},
    {R"({"type": " INT32 "})", "7", "7"},
    {R"({"type": "double"})", "7.5", "7.5"},
    {R"({"type": "bool"})", "1", "true"},
    {R"({"type": "dict"})", "{}", "{}"},
    {R"({"type": "list"})", "[]", "[]"},
    {R"({"type": "bogus"})", "7", "7"},
    {R"({"type": "bogus"})", "x", R"("x")"},
    {R"({"enum": [1, "a"]})", "1", "1"},
    {R"({"enum": ["a", "b"]})", "1", R"("1")"},
    {R"({"anyOf": [{"type": "integer"}, {"type": "null"}]})", "null", "null"},
    {R"({"anyOf": [{"type": "integer"}, {"description": "?"}]})", "x1", R"("x1")"},
    {R"({"allOf": [{"type": "number"}]})", "2.50", "2.5"},
    {"true", "7", R"("7")"},
    {"null", "7", R"("7")"},
    {"[]", "7", R"("7")"},
};

TEST(ToolCallParser, LeafCoercion) {
  for (const LeafCase& c : kLeaves) {
    const Json tools = Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters":
        {"properties": {"p": )" + c.schema +
                                   "}}}}]");
    EXPECT_EQ(parse({block(invoke(E("p", c.text), "f"))}, tools),
              (Result{"", {{"f", "{\"p\": " + c.value + "}"}}}))
        << c.schema << " " << c.text;
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
  const std::size_t end = text.find(NS + "</invoke>");
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
  EXPECT_EQ(feed(NS + "<tool_call>" + NS + "<invoke name=\"create_order\">"), "create_order");
  EXPECT_EQ(feed(NS + "<user_id>4"), "");
  EXPECT_EQ(feed("2"), "");
  EXPECT_EQ(feed(NS + "</user_id>"), R"({"user_id": 42)");
  EXPECT_EQ(feed(NS + "<note>a\"b"), R"(, "note": "a\"b)");
  EXPECT_EQ(feed("\n]<]"), R"(\n)");
  EXPECT_EQ(feed("c" + NS + "</no"), R"(]<]c)");
  EXPECT_EQ(feed("te>"), "\"");
  EXPECT_EQ(feed(E("tags", E("item", "x"))), R"(, "tags": ["x"])");
  EXPECT_EQ(feed(NS + "</invoke>"), "}");
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
      {E("user_id", "1") + NS + "<note>a" + NS + "</other>", R"({"user_id": 1, "note": "a"})"},
      {NS + "<note>cut off", R"({"note": "cut off"})"},
      {"first" + NS + "</note>" + E("user_id", "1"), R"({"note": "first", "user_id": 1})"},
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
  const std::vector<std::string> tokens = {NS,
                                           NS + "<tool_call>",
                                           NS + "</tool_call>",
                                           NS + "<invoke name=\"create_order\">",
                                           NS + "<invoke name=",
                                           "'x'>",
                                           NS + "</invoke>",
                                           NS + "<note>",
                                           NS + "</note>",
                                           NS + "<user_id>",
                                           NS + "</user_id>",
                                           NS + "<",
                                           NS + "</",
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
    std::string text =
        round % 2 == 0 ? "" : NS + "<tool_call>" + NS + "<invoke name=\"create_order\">";
    for (auto n = random() % 20; n > 0; --n) text += tokens[random() % tokens.size()];
    const auto mode = random() % 2 == 0 ? ArgumentStreaming::kWhole : ArgumentStreaming::kEager;
    const Result whole = parse({text}, tools, mode);
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 17));
      at += pieces.back().size();
    }
    ASSERT_EQ(parse(pieces, tools, mode), whole) << text;
    ASSERT_EQ(parse(bytes(text), tools, mode), whole) << text;
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
    ASSERT_EQ(parse(bytes(text), order_tools()), parse({text}, order_tools()));
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
  const std::string open = NS + "<tool_call>" + NS + "<invoke name=\"create_order\">";
  std::string dollars;
  for (std::string name = "$text"; dollars.size() < 1000000; name.insert(0, 1, '$'))
    dollars += E(name, "");
  const std::vector<std::pair<std::string, std::string>> outputs = {
      {"opening tags", open + repeat(NS + "<a>", 70000)},
      {"block starts", repeat(NS + "<tool_call>", 45000)},
      {"invokes", open + repeat(NS + "<invoke name=x>", 35000)},
      {"markers", open + repeat(NS, 80000)},
      {"bare content markers", repeat(NS, 80000)},
      {"half markers", open + NS + "<note>" + repeat("]<]minimax[>", 90000)},
      {"endless tag", open + NS + "<" + repeat("a", 1000000)},
      {"endless name", NS + "<tool_call>" + NS + "<invoke name=\"" + repeat("a", 1000000)},
      {"siblings",
       open + NS + "<free>" + repeat(E("a", "1"), 30000) + NS + "</free>" + NS + "</invoke>"},
      {"parameters", open + repeat(E("note", "1"), 25000) + NS + "</invoke>"},
      {"long text", open + E("note", repeat("a\n", 500000)) + NS + "</invoke>"},
      {"blanks", open + repeat("\u3000", 330000) + NS + "</invoke>"},
      {"number", open + E("user_id", repeat("9", 1000000)) + NS + "</invoke>"},
      {"spaces", open + E("user_id", repeat("\u2003", 330000) + "x") + NS + "</invoke>"},
      {"deep JSON", open + E("tags", repeat("[", 1000000)) + NS + "</invoke>"},
      {"JSON members",
       open + E("free", "{" + repeat("\"a\": 1, ", 100000) + "\"b\": 1}") + NS + "</invoke>"},
      {"mixed text names", open + E("free", "x" + dollars) + NS + "</invoke>"},
  };
  const Json tools = order_tools();
  for (const auto& [name, text] : outputs) {
    for (const auto mode : {ArgumentStreaming::kWhole, ArgumentStreaming::kEager}) {
      const auto start = std::chrono::steady_clock::now();
      const Result whole = parse({text}, tools, mode);
      const Result piecewise = parse(bytes(text), tools, mode);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_EQ(whole, piecewise) << name;
      EXPECT_LT(seconds.count(), 20) << name;
    }
  }
}

}  // namespace
}  // namespace quern
