#include "quern/grammar/structured_output.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "quern/base/error.h"

namespace quern::grammar {
namespace {

std::shared_ptr<const TokenTrie> bytes() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.push_back({static_cast<char>(byte)});
  return std::make_shared<const TokenTrie>(texts);
}

StructuredOutput schema(Json value) {
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kJsonSchema;
  output.schema = std::move(value);
  return output;
}

TEST(GrammarCache, CompilesOnce) {
  GrammarCache cache(bytes());
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<const TokenGrammar>> grammars(8);
  for (auto& grammar : grammars) {
    threads.emplace_back([&] { grammar = cache.get(schema({{"type", "string"}})); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& grammar : grammars) EXPECT_EQ(grammar, grammars.front());
  EXPECT_EQ(cache.stats().compiled, 1U);
  for (int i = 0; i < 40; ++i) cache.get(schema({{"type", "string"}, {"maxLength", i}}));
  EXPECT_EQ(cache.stats().entries, 32U);
  EXPECT_NE(cache.get(schema({{"type", "string"}})), grammars.front()) << "the oldest went";
}

// Each of these is answered, or refused, within seconds.
TEST(GrammarCache, BoundedTime) {
  Json chain = {{"$defs", Json::object()}, {"$ref", "#/$defs/d0"}};
  for (int i = 0; i < 3000; ++i) {
    const Json next = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
    chain["$defs"]["d" + std::to_string(i)] = {{"anyOf", {next, next}}};
  }
  chain["$defs"]["d3000"] = {{"type", "null"}};
  Json doubling = {{"$defs", Json::object()}, {"$ref", "#/$defs/d0"}};
  for (int i = 0; i < 60; ++i) {
    const Json next = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
    doubling["$defs"]["d" + std::to_string(i)] = {{"type", "object"},
                                                  {"properties", {{"a", next}, {"b", next}}}};
  }
  doubling["$defs"]["d60"] = {{"type", "null"}};
  Json branches = Json::array();
  for (int i = 0; i < 20; ++i) {
    branches.push_back({{"anyOf", {{{"minimum", i}}, {{"maximum", i}}, {{"multipleOf", i + 2}}}}});
  }
  Json wide = {{"type", "object"}, {"properties", Json::object()}};
  for (int i = 0; i < 20000; ++i) {
    wide["properties"]["property_" + std::to_string(i)] = {{"type", "string"}, {"maxLength", 100}};
  }
  const Json lengths = {
      {"type", "array"}, {"maxItems", 4000}, {"items", {{"type", "string"}, {"maxLength", 20000}}}};
  const Json patterns = {{"allOf",
                          {{{"pattern", "(a|b)*a(a|b){12}$"}},
                           {{"pattern", "(b|c)*c(b|c){12}$"}},
                           {{"pattern", "(a|c)*a(a|c){12}$"}}}}};
  for (const Json& value : {chain, doubling, Json{{"allOf", branches}}, wide, lengths, patterns,
                            Json{{"enum", {std::string(std::size_t{2} << 20, 'x')}}}}) {
    GrammarCache cache(bytes());
    const auto begin = std::chrono::steady_clock::now();
    std::string outcome = "compiled";
    try {
      cache.get(schema(value));
    } catch (const Error& error) {
      outcome = error.what();
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_LT(seconds, 15) << outcome << value.dump().substr(0, 100);
  }
  try {
    GrammarCache(bytes()).get(schema({{"enum", {std::string(std::size_t{2} << 20, 'x')}}}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("at most 524288"), std::string::npos) << error.what();
  }
}

TEST(StructuredOutput, ErrorsNameTheKeyword) {
  const std::pair<const char*, const char*> rows[] = {
      {R"({"properties":{"a":{"not":{}}}})", "at '#/properties/a': the keyword 'not'"},
      {R"({"type":"array","uniqueItems":true})", "'uniqueItems' is not supported"},
      {R"({"type":"txt"})", "'type' is \"txt\""},
      {R"({"type":"number","multipleOf":0.5})", "'multipleOf' 0.5"},
      {R"({"$ref":"#/missing"})", "points to nothing"},
      {R"({"$ref":"http://example.com/x"})", "'$ref'"},
      {R"-({"type":"string","pattern":"(?=a)"})-", "lookahead"},
      {R"({"oneOf":[{"type":"object","properties":{"a":{}}},{"type":"object"}]})", "'oneOf'"},
      {R"({"if":{},"then":{}})", "'if'"},
      {R"({"type":"string","minLength":-1})", "'minLength'"},
      {R"({"type":"string","minLength":5,"maxLength":4})", "no text can satisfy"},
      {R"({"properties":[]})", "'properties' must be an object"},
      {R"(5)", "expected an object or a boolean"},
  };
  for (const auto& [text, message] : rows) {
    try {
      compile(schema(Json::parse(text)));
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quern::grammar
