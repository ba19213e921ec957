#include "quern/grammar/tool_grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>

#include "quern/base/error.h"
#include "quern/grammar/automaton.h"
#include "quern/grammar/matcher.h"
#include "quern/grammar/schema_reader.h"
#include "quern/grammar/token_mask.h"
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

// One token a byte.
std::shared_ptr<const TokenTrie> byte_trie() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.push_back({static_cast<char>(byte)});
  return std::make_shared<const TokenTrie>(texts);
}

// A random text of the grammar, or "" when it became too long. What closes something is preferred:
// tags, quotes, brackets.
std::string sample(const std::shared_ptr<const TokenGrammar>& grammar, std::mt19937& random) {
  const std::string marker(kToolNamespace);
  const std::string letters = "aZ059-.,:\"{}[]<>/ \n\\ntrufalse]\xC3\xA9_";
  TokenMatcher matcher(grammar);
  std::vector<MaskWord> mask(mask_words(256));
  std::string text;
  while (text.size() < 3000) {
    if (!matcher.fill(mask) || (matcher.can_end() && random() % 3 == 0)) return text;
    const auto can = [&](char c) { return mask_has(mask, static_cast<unsigned char>(c)); };
    int choice = static_cast<int>(random() % 256);
    while (!mask_has(mask, choice)) choice = (choice + 1) % 256;
    char c = static_cast<char>(choice);
    const char letter = letters[random() % letters.size()];
    if (can(letter)) c = letter;
    for (const char closing : {'"', '}', ']'}) {
      if (can(closing) && random() % 3 == 0) c = closing;
    }
    for (std::size_t size = marker.size() - 1; size > 0; --size) {
      if (!text.ends_with(marker.substr(0, size))) continue;
      if (can(marker[size])) c = marker[size];
      break;
    }
    EXPECT_TRUE(matcher.accept({&c, 1}));
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
  const auto grammar = std::make_shared<const TokenGrammar>(compile_tools(tools), byte_trie());
  std::mt19937 random(11);
  SchemaReader reader(kOrder, {.closed = true});
  int orders = 0;
  int seen = 0;
  for (int i = 0; i < 300; ++i) {
    const std::string text = sample(grammar, random);
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
  const auto grammar = std::make_shared<const TokenGrammar>(compile_tools(resolved), byte_trie());
  std::mt19937 random(5);
  int calls = 0;
  for (int i = 0; i < 30; ++i) {
    const std::string text = sample(grammar, random);
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

TEST(ToolGrammar, ReferencesAreResolvedWithinBounds) {
  // A long chain, and a large text that many references name: both stay as they are.
  Json chain = {{"type", "object"}, {"$defs", Json::object()}};
  Json& defs = chain["$defs"];
  for (int i = 0; i < 3000; ++i) {
    defs.get_ref<Json::object_t&>().emplace_back(
        "d" + std::to_string(i), Json{{"$ref", "#/$defs/d" + std::to_string(i + 1)}});
  }
  defs.get_ref<Json::object_t&>().emplace_back("d3000", Json{{"type", "null"}});
  chain["properties"]["a"]["$ref"] = "#/$defs/d0";
  Json wide = {{"type", "object"}, {"properties", Json::object()}};
  wide["$defs"]["D"] = {{"type", "string"}, {"description", std::string(100'000, 'x')}};
  for (int i = 0; i < 100; ++i) {
    wide["properties"]["p" + std::to_string(i)]["$ref"] = "#/$defs/D";
  }
  for (const Json& schema : {chain, wide}) {
    const Json tools = Json::array({tool("f", schema)});
    EXPECT_EQ(with_references_resolved(tools), tools);
  }
}

}  // namespace
}  // namespace quern::grammar
