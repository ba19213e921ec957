// Fields that say what an answer has to look like: right, wrong, and twice.
#include "quern/server/structured_output.h"

#include <gtest/gtest.h>

#include <string>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

using Kind = grammar::StructuredOutput::Kind;

Json body(const std::string& text) { return Json::parse(text); }

TEST(StructuredOutputFields, Read) {
  const std::pair<const char*, Kind> rows[] = {
      {R"({"response_format":{"type":"json_object"}})", Kind::kJsonObject},
      {R"({"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,
           "schema":{"type":"object"}}}})",
       Kind::kJsonSchema},
      {R"({"structured_outputs":{"json":{"type":"string"}}})", Kind::kJsonSchema},
      {R"({"structured_outputs":{"json":"{\"type\":\"string\"}"}})", Kind::kJsonSchema},
      {R"({"structured_outputs":{"regex":"a+"}})", Kind::kRegex},
      {R"({"structured_outputs":{"choice":["a","b"],"json":null}})", Kind::kChoice},
      {R"({"structured_outputs":{"grammar":"root ::= \"a\""}})", Kind::kGrammar},
      {R"({"structured_outputs":{"json_object":true}})", Kind::kJsonObject},
      {R"({"guided_json":{"type":"string"}})", Kind::kJsonSchema},
      {R"({"guided_regex":"a"})", Kind::kRegex},
      {R"({"guided_choice":["a"]})", Kind::kChoice},
      {R"({"guided_grammar":"root ::= \"a\""})", Kind::kGrammar},
  };
  for (const auto& [text, kind] : rows) {
    const auto output = read_structured_output(body(text));
    ASSERT_NE(output, nullptr) << text;
    EXPECT_EQ(output->kind, kind) << text;
    EXPECT_NO_THROW(grammar::compile(*output)) << text;
  }
  const auto spaced = read_structured_output(body(
      R"({"structured_outputs":{"whitespace_pattern":"[ ]?","disable_any_whitespace":true},
          "response_format":{"type":"json_object"}})"));
  ASSERT_NE(spaced, nullptr);
  EXPECT_EQ(spaced->whitespace_regex, "[ ]?");
  EXPECT_FALSE(spaced->any_whitespace);
  for (const char* free : {"{}", R"({"response_format":{"type":"text"}})",
                           R"({"response_format":null,"structured_outputs":null})"}) {
    EXPECT_FALSE(read_structured_output(body(free))) << free;
  }
}

TEST(StructuredOutputFields, Refused) {
  const std::pair<const char*, const char*> rows[] = {
      {R"({"response_format":"json"})", "must be an object with a `type`"},
      {R"({"response_format":{"type":"xml"}})", "must be text, json_object or json_schema"},
      {R"({"response_format":{"type":"json_schema"}})", "needs `json_schema.schema`"},
      {R"({"response_format":{"type":"structural_tag","structures":[]}})", "structural_tag"},
      {R"({"structured_outputs":{"structural_tag":"{}"}})", "structural_tag` is not supported"},
      {R"({"structured_outputs":{}})", "none are specified"},
      {R"({"structured_outputs":5})", "must be an object"},
      {R"({"structured_outputs":{"regex":"a","choice":["a"]}})", "multiple are specified"},
      {R"({"structured_outputs":{"regex":"a"},"response_format":{"type":"json_object"}})",
       "multiple are specified"},
      {R"({"structured_outputs":{"regex":5}})", "must be a string"},
      {R"({"structured_outputs":{"choice":[]}})", "non-empty list of strings"},
      {R"({"structured_outputs":{"choice":[1]}})", "non-empty list of strings"},
      {R"({"structured_outputs":{"json":"{"}})", "structured_outputs.json"},
      {R"({"structured_outputs":{"regex":"a","disable_any_whitespace":"x"}})", "must be a boolean"},
      {R"({"structured_outputs":{"regex":"a"},"tool_choice":"required"})", "not both"},
  };
  for (const auto& [text, message] : rows) {
    try {
      read_structured_output(body(text));
      ADD_FAILURE() << text;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), 400) << error.what();
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
}

TEST(StructuredOutputFields, ToolChoice) {
  const Json tools = body(R"([{"type":"function","function":{"name":"f","parameters":{}}}])");
  const Json strict =
      body(R"([{"type":"function","function":{"name":"f","parameters":{},"strict":true}}])");
  EXPECT_FALSE(tool_output(tools, "auto", nullptr, true));
  EXPECT_FALSE(tool_output(strict, "none", nullptr, true));
  EXPECT_EQ(tool_output(strict, "auto", nullptr, true)->tool_options.mode,
            grammar::ToolMode::kFree);
  EXPECT_EQ(tool_output(tools, "required", nullptr, false)->tool_options.mode,
            grammar::ToolMode::kRequired);
  EXPECT_EQ(
      tool_output(tools, "named", body(R"({"function":{"name":"f"}})"), true)->tool_options.name,
      "f");
}

}  // namespace
}  // namespace quern::server
