// What templates get to see of the messages.
#include "quern/server/chat_messages.h"

#include <gtest/gtest.h>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

Json json(const std::string& text) { return parse_json(text, "test"); }

TEST(TemplateMessages, FollowTheTemplatesFormat) {
  const Json messages =
      json(R"([{"role":"user","content":[{"type":"text","text":"a"},"b"],"extra":1},
      {"role":"assistant","content":null,"reasoning":"r","tool_calls":[{"id":"1","type":"function",
       "function":{"name":"f","arguments":"{\"x\": [1]}"}},{"function":{"name":"g","arguments":""}}]},
      {"role":"tool","tool_call_id":"1","content":"12"}])");
  const Json strings = template_messages(messages, ContentFormat::kString);
  EXPECT_EQ(strings[0].dump(), R"({"role":"user","content":"a\nb"})");
  EXPECT_EQ(
      strings[1].dump(),
      R"({"role":"assistant","content":null,"reasoning":"r","reasoning_content":"r",)"
      R"("tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"x":[1]}}},)"
      R"({"function":{"name":"g","arguments":{}}}]})");
  EXPECT_EQ(strings[2].dump(), R"({"role":"tool","content":"12","tool_call_id":"1"})");
  EXPECT_EQ(template_messages(messages, ContentFormat::kOpenAi)[0].dump(),
            R"({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]})");
}

TEST(TemplateMessages, WrongOnesAreNamed) {
  struct Case {
    const char* messages;
    const char* text;
  };
  const Case cases[] = {
      {R"([{"role":"user","content":5}])", "messages[0]: `content` must be"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "needs a string `text`"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}])",
       "images are not supported by this build yet."},
      {R"([{"role":"user","content":[{"type":"input_audio"}]}])", "not supported"},
      {R"([{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"function":{"name":"f",
          "arguments":"{broken"}}]}])",
       "messages[1]: arguments of a tool call: invalid JSON"},
      {R"([{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}])",
       "must hold a JSON object"},
      {R"([{"role":"assistant","tool_calls":[{}]}])", "needs `function.name`"},
      {R"([{"role":"assistant","reasoning":5}])", "`reasoning` must be a string"},
  };
  for (const Case& c : cases) {
    try {
      template_messages(json(c.messages), ContentFormat::kString);
      ADD_FAILURE() << c.messages;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), 400);
      EXPECT_NE(std::string(error.what()).find(c.text), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quern::server
