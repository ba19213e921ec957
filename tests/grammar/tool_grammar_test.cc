#include "quern/grammar/tool_grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "quern/base/error.h"
#include "quern/grammar/automaton.h"
#include "quern/grammar/matcher.h"
#include "quern/grammar/schema_reader.h"
#include "quern/text/output_parser.h"

namespace quern::grammar {
namespace {

Json tool(const std::string& name, Json parameters, bool strict = true) {
  return {
      {"type", "function"},
      {"function", {{"name", name}, {"parameters", std::move(parameters)}, {"strict", strict}}}};
}

Automaton compile_tools(const Json& tools, const ToolGrammarOptions& options = {}) {
  GrammarBuilder builder;
  const RuleId root = tool_grammar(tools, options, builder);
  return compile(builder, root);
}

// A random text of the grammar; short, because what ends is preferred as it grows.
std::string sample(const Automaton& automaton, std::mt19937& random) {
  Matcher matcher(automaton);
  std::string text;
  const std::string letters = "aZ059-.,:\"{}[]<>/ \n\\ntrufalse]\xC3\xA9_";
  while (text.size() < 3000) {
    if (matcher.can_end() && random() % 4 == 0) return text;
    std::vector<char> next;
    for (int byte = 0; byte < 256; ++byte) {
      Matcher copy = matcher;
      const char c = static_cast<char>(byte);
      if (copy.accept({&c, 1})) next.push_back(c);
    }
    if (next.empty()) return text;
    // Structure first: a tag begins whenever it can, one time in three.
    char c = next[random() % next.size()];
    if (random() % 3 == 0 && std::ranges::find(next, ']') != next.end()) c = ']';
    if (text.ends_with("]") && std::ranges::find(next, '<') != next.end()) c = '<';
    if (text.ends_with("]<") && std::ranges::find(next, ']') != next.end()) c = ']';
    if (next.size() > 100 && c != ']') {
      const char l = letters[random() % letters.size()];
      if (std::ranges::find(next, l) != next.end()) c = l;
    }
    matcher.accept({&c, 1});
    text += c;
  }
  return {};
}

ParsedOutput parse(const std::string& text, const Json& tools) {
  return parse_output(text, {.parse_reasoning = false}, tools);
}

const Json kOrder = Json::parse(R"({"type":"object","properties":{
  "user_id":{"type":"integer","minimum":1,"maximum":99999},
  "urgent":{"type":"boolean"},
  "note":{"type":"string","maxLength":12},
  "code":{"type":"string","pattern":"^[A-Z]{2}[0-9]+$"},
  "price":{"type":"number","minimum":0,"exclusiveMaximum":100},
  "size":{"enum":["S","M",7,null,true]},
  "either":{"anyOf":[{"type":"array","items":{"type":"integer"}},{"type":"string","minLength":1}]},
  "maybe":{"type":["string","null"]},
  "tags":{"type":"array","items":{"type":"string"},"maxItems":3},
  "pair":{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"minItems":2},
  "shipping":{"type":"object","properties":{"city":{"type":"string"},"zip":{"type":"integer"},
     "geo":{"type":"object","properties":{"lat":{"type":"number"},"lon":{"type":"number"}},
            "required":["lat","lon"]}},"required":["city"]},
  "items":{"type":"array","minItems":1,"maxItems":3,"items":{"type":"object","properties":
     {"sku":{"type":"string"},"qty":{"type":"integer","multipleOf":5}},"required":["sku","qty"]}},
  "free":{"type":"object"},
  "map":{"type":"object","additionalProperties":{"type":"integer"}},
  "when":{"type":"string","format":"date"}
},"required":["user_id","note","price","items"]})");

// What the grammar allows, the parser reads to arguments that the schema allows.
TEST(ToolGrammar, ParserReadsValidArguments) {
  const Json tools = Json::array(
      {tool("create_order", kOrder), tool("ping", nullptr), tool("empty", {{"type", "object"}})});
  const Automaton automaton = compile_tools(tools);
  std::mt19937 random(11);
  SchemaReader reader(kOrder, {.closed = true});
  int orders = 0;
  int seen = 0;
  for (int i = 0; i < 300; ++i) {
    const std::string text = sample(automaton, random);
    if (text.empty()) continue;
    const ParsedOutput output = parse(text, tools);
    ASSERT_FALSE(output.tool_calls.empty()) << text;
    EXPECT_FALSE(output.content.has_value()) << *output.content;
    for (const ParsedToolCall& call : output.tool_calls) {
      const Json arguments = parse_json(call.arguments, "arguments");
      if (call.name == "create_order") {
        ++orders;
        seen += static_cast<int>(arguments.size());
        ASSERT_TRUE(reader.valid(arguments, reader.root())) << text << "\n" << call.arguments;
      } else {
        ASSERT_TRUE(call.name == "ping" || call.name == "empty") << call.name;
        EXPECT_EQ(arguments, Json::object());
      }
    }
  }
  EXPECT_GT(orders, 50);
  EXPECT_GT(seen, 300);
}

TEST(ToolGrammar, AcceptsTheTemplatesForm) {
  const Json tools = Json::array({tool("get_weather", Json::parse(R"({"type":"object","properties":{
    "city":{"type":"string"},"opts":{"type":"object","properties":{"metric":{"type":"boolean"},
    "days":{"type":"array","items":{"type":"integer"}}}}},"required":["city"]})"))});
  const std::string ns(kToolNamespace);
  const auto e = [&](const std::string& name, const std::string& body) {
    return ns + "<" + name + ">" + body + ns + "</" + name + ">";
  };
  const std::string call =
      ns + "<invoke name=\"get_weather\">" + e("city", "Oslo") +
      e("opts", e("metric", "true") + e("days", e("item", "1") + e("item", "2"))) + ns +
      "</invoke>\n";
  const auto block = [&](const std::string& calls) {
    return ns + "<tool_call>\n" + calls + ns + "</tool_call>";
  };
  const auto accepts = [&](const std::string& text, const ToolGrammarOptions& options) {
    const Automaton automaton = compile_tools(tools, options);
    Matcher matcher(automaton);
    return matcher.accept(text) && matcher.can_end();
  };
  EXPECT_TRUE(accepts(block(call), {}));
  EXPECT_TRUE(accepts(block(call + call), {}));
  EXPECT_FALSE(accepts(block(call + call), {.parallel = false}));
  EXPECT_FALSE(accepts(block(call + call), {.name = "get_weather"}));
  EXPECT_TRUE(accepts(block(call), {.name = "get_weather"}));
  EXPECT_FALSE(accepts(block(""), {}));
  EXPECT_FALSE(accepts("Checking." + block(call), {}));
  EXPECT_FALSE(accepts("", {}));
  EXPECT_TRUE(accepts("Checking." + block(call), {.mode = ToolMode::kFree}));
  EXPECT_TRUE(accepts("No call.", {.mode = ToolMode::kFree}));
  EXPECT_FALSE(accepts("a" + ns + "<tool_call>", {.mode = ToolMode::kFree}));
}

TEST(ToolGrammar, ReferencesAreResolved) {
  const Json tools = Json::array({tool("plan", Json::parse(R"({"type":"object","properties":{
    "points":{"type":"array","items":{"$ref":"#/$defs/Point"},"minItems":1}},"required":["points"],
    "$defs":{"Point":{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]}}})"))});
  const Json resolved = with_references_resolved(tools);
  const Automaton automaton = compile_tools(resolved);
  std::mt19937 random(5);
  int calls = 0;
  for (int i = 0; i < 30; ++i) {
    const std::string text = sample(automaton, random);
    for (const ParsedToolCall& call : parse(text, resolved).tool_calls) {
      const Json points = parse_json(call.arguments, "arguments")["points"];
      ASSERT_TRUE(points[0]["x"].is_number_integer()) << call.arguments;
      ++calls;
    }
  }
  EXPECT_GT(calls, 10);
  // Recursion stays a reference, and copies stay bounded.
  const Json tree = Json::array({tool("t", Json::parse(R"({"type":"object","properties":{
    "node":{"$ref":"#/$defs/N"}},"$defs":{"N":{"type":"object","properties":{
    "next":{"$ref":"#/$defs/N"},"v":{"type":"integer"}}}}})"))});
  EXPECT_EQ(
      with_references_resolved(
          tree)[0]["function"]["parameters"]["properties"]["node"]["properties"]["next"]["$ref"],
      "#/$defs/N");
}

TEST(ToolGrammar, WhatCannotBeWritten) {
  const Json unsupported = {{"type", "object"},
                            {"properties", {{"a", {{"not", {{"type", "null"}}}}}}}};
  EXPECT_THROW(compile_tools(Json::array({tool("f", unsupported)})), Error);
  EXPECT_NO_THROW(compile_tools(Json::array({tool("f", unsupported, false)})));
  EXPECT_THROW(compile_tools(Json::array({tool("bad name>", nullptr)})), Error);
  const Json bad_key = {
      {"type", "object"}, {"properties", {{"a>b", {{"type", "string"}}}}}, {"required", {"a>b"}}};
  EXPECT_THROW(compile_tools(Json::array({tool("f", bad_key)})), Error);
}

}  // namespace
}  // namespace quern::grammar
