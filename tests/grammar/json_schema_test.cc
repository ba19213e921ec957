// What the JSON Schema Test Suite does not ask: spelling, order, closed objects, formats, limits.
#include <gtest/gtest.h>

#include <string>

#include "quern/base/error.h"
#include "quern/grammar/json_grammar.h"
#include "quern/grammar/schema_reader.h"
#include "tests/grammar/schema_helper.h"

namespace quern::grammar {
namespace {

struct SchemaRow {
  const char* schema;
  const char* text;
  bool accepted;
};

void check_rows(const std::vector<SchemaRow>& rows, bool closed, const JsonStyle& style = {}) {
  for (const SchemaRow& row : rows) {
    const Automaton automaton = test::compile_schema(Json::parse(row.schema), closed, style);
    EXPECT_EQ(test::accepts(automaton, row.text), row.accepted) << row.schema << " on " << row.text;
  }
}

constexpr const char* kPerson =
    R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name"]})";

TEST(JsonSchema, SpellingAndOrder) {
  check_rows({{kPerson, R"({"name":"x"})", true},
              {kPerson, R"({ "name": "x", "age": 3 })", true},
              {kPerson, "{\n  \"name\": \"x\",\n  \"age\": 3\n}", true},
              {kPerson, R"({"name":  "x"})", false},  // two blanks
              {kPerson, R"({"age":3,"name":"x"})", false},
              {kPerson, R"({"age":3})", false},
              {kPerson, R"({"name":"x",})", false},
              {kPerson, R"({"name":"x","other":1})", false},
              {R"({"type":"string"})", R"("\u00e9\ud83d\ude00\n\/é")", true},
              {R"({"type":"string"})", R"("\ud83d")", false},
              {R"({"type":"string"})", "\"\n\"", false},
              {R"({"type":"string"})", "\"\xC3\"", false},
              {R"({"const":"a\"b\n\u0001"})", R"("a\"b\n\u0001")", true},
              {R"({"properties":{"grün \" x":{"type":"null"}}})", R"({"grün \" x":null})", true},
              {R"({"items":{"type":"integer"}})", "[1, 2,3]", true},
              {R"({"items":{"type":"integer"}})", "{}", false}},
             true);
  check_rows({{kPerson, R"({"name":"x","other":1})", true}, {kPerson, "{}", false}}, false);
}

TEST(JsonSchema, Styles) {
  JsonStyle plain;
  plain.any_whitespace = false;
  check_rows({{kPerson, R"({"name": "x", "age": 3})", true}, {kPerson, R"({"name":"x"})", false}},
             true, plain);
  JsonStyle dashes;
  dashes.whitespace_regex = "-*";
  check_rows({{kPerson, R"({--"name"-:"x"--})", true}, {kPerson, R"({ "name":"x"})", false}}, true,
             dashes);
  JsonStyle tags;
  tags.inside_tags = true;
  check_rows({{R"({"type":"string"})", R"("a<b")", false},
              {R"({"type":"string"})", R"("a\u003cb")", true},
              {R"({"const":"<"})", R"("\u003c")", true}},
             true, tags);
}

TEST(JsonSchema, Combinations) {
  const char* merged =
      R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},
                   {"properties":{"a":{"maximum":5},"b":{"type":"null"}}}]})";
  const char* counted =
      R"({"type":"object","properties":{"a":{},"b":{},"c":{}},"minProperties":2,"maxProperties":2,
          "additionalProperties":false})";
  const char* open_counted = R"({"type":"object","maxProperties":2})";
  const char* patterns =
      R"({"type":"object","properties":{"xa":{"type":"null"}},"patternProperties":{"^x":{"type":
          ["integer","null"]},"y$":{"type":["null","string"]}},"additionalProperties":false})";
  const char* tree =
      R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"kids":{"type":"array",
          "items":{"$ref":"#/$defs/n"}}},"required":["kids"]}}})";
  const char* kinds =
      R"({"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"v":{"type":"integer"}},
          "required":["kind","v"]},{"type":"object","properties":{"kind":{"const":"b"}},
          "required":["kind"]}]})";
  check_rows(
      {{merged, R"({"a":5})", true},
       {merged, R"({"a":6})", false},
       {merged, R"({"a":5,"b":null})", true},
       {merged, R"({"b":null})", false},
       {counted, R"({"a":1,"c":2})", true},
       {counted, R"({"a":1})", false},
       {counted, R"({"a":1,"b":1,"c":2})", false},
       {open_counted, R"({"p":1,"q":{}})", true},
       {open_counted, R"({"p":1,"q":{},"r":2})", false},
       {patterns, R"({"xa":null,"xb":3,"cy":"s","xy":null})", true},
       {patterns, R"({"xy":3})", false},
       {patterns, R"({"z":null})", false},
       {patterns, R"({"xa":3})", false},
       {tree, R"({"kids":[{"kids":[]},{"kids":[{"kids":[]}]}]})", true},
       {tree, R"({"kids":[{"kids":[}]}]})", false},
       {kinds, R"({"kind":"a","v":1})", true},
       {kinds, R"({"kind":"b"})", true},
       {kinds, R"({"kind":"a"})", false},
       {R"({"anyOf":[{"type":"string","maxLength":2},{"type":"string","pattern":"^x"}]})",
        R"("xyz")", true},
       {R"({"anyOf":[{"type":"string","maxLength":2},{"type":"string","pattern":"^x"}]})",
        R"("yyz")", false},
       {R"({"enum":[1,"a",null,[1,{"b":2}]],"type":["array","null"]})", R"([1, {"b":2}])", true},
       {R"({"enum":[1,"a",null,[1,{"b":2}]],"type":["array","null"]})", "1", false},
       {R"({"type":"array","prefixItems":[{"const":1}],"minItems":1})", "[1]", true},
       {R"({"type":"array","prefixItems":[{"const":1}],"minItems":1})", "[1,2]", false},
       {R"({"type":"array","items":[{"const":1}],"additionalItems":{"const":2}})", "[1,2,2]", true},
       {R"({"type":"array","items":{"type":"null"},"minItems":2,"maxItems":3})", "[null]", false},
       {R"({"type":"array","items":{"type":"null"},"minItems":2,"maxItems":3})", "[null,null,null]",
        true},
       {R"({"type":"integer","minimum":1,"exclusiveMinimum":true})", "1", false},
       {R"({"type":"object","propertyNames":{"pattern":"^a"},"additionalProperties":true})",
        R"({"ab":1})", true},
       {R"({"type":"object","propertyNames":{"pattern":"^a"},"additionalProperties":true})",
        R"({"b":1})", false}},
      true);
}

TEST(JsonSchema, Formats) {
  const struct {
    const char* format;
    const char* good;
    const char* bad;
  } rows[] = {
      {"date", "2024-02-28", "2024-02-30"},
      {"time", "23:59:59.5Z", "24:00:00Z"},
      {"date-time", "2024-12-31T00:00:00+01:00", "2024-12-31 00:00:00"},
      {"duration", "P1Y2M3DT4H5M6S", "P"},
      {"email", "a.b@example.org", "a@b"},
      {"hostname", "a-b.example", "-a.example"},
      {"ipv4", "255.0.10.1", "256.0.0.1"},
      {"ipv6", "fe80::1:2", "1::2::3"},
      {"uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"},
      {"uri", "https://example.org/a?b=c#d", "//example.org"},
      {"json-pointer", "/a~1b/0", "a"},
      {"color", "anything at all", nullptr},
  };
  for (const auto& row : rows) {
    const Automaton automaton =
        test::compile_schema({{"type", "string"}, {"format", row.format}}, true);
    EXPECT_TRUE(test::accepts(automaton, Json(row.good).dump())) << row.format;
    if (row.bad == nullptr) continue;
    EXPECT_FALSE(test::accepts(automaton, Json(row.bad).dump())) << row.format;
  }
}

TEST(JsonSchema, HugeCountsAndManyMembers) {
  Json schema = {{"type", "object"}, {"additionalProperties", true}};
  Json::object_t members;
  for (int i = 0; i < 1500; ++i) {
    members.emplace_back("p" + std::to_string(i), Json{{"type", "null"}});
  }
  schema["properties"] = members;
  schema["maxProperties"] = 6192449488683008;  // times the members: small again in 64 bits
  GrammarBuilder builder;
  JsonGrammar json(builder, {.any_whitespace = true, .whitespace_regex = ""});
  SchemaReader reader(schema, {});
  EXPECT_THROW(
      {
        json.schema(reader);
        json.finish();
      },
      Error);
}

// Branches that exclude each other in one place may overlap in another.
TEST(JsonSchema, OneOfIsCheckedInEachPlace) {
  const Json schema = Json::parse(R"({"type":"object","properties":{
    "a":{"allOf":[{"$ref":"#/$defs/U"},{"type":"string"}]},"b":{"$ref":"#/$defs/U"}},
    "$defs":{"U":{"oneOf":[{"type":["string","integer"]},{"type":["integer","null"]}]}}})");
  GrammarBuilder builder;
  JsonGrammar json(builder, {.any_whitespace = true, .whitespace_regex = ""});
  SchemaReader reader(schema, {});
  EXPECT_THROW(
      {
        json.schema(reader);
        json.finish();
      },
      Error);
}

}  // namespace
}  // namespace quern::grammar
