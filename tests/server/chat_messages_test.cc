// What templates get to see of the messages.
#include "quern/server/chat_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/server/api_error.h"
#include "quern/server/media_parts.h"
#include "tests/support/error_message.h"

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

TEST(TemplateMessages, ImagesStandWhereTheirPartStands) {
  Json messages = json(R"([{"role":"user","content":[{"type":"text","text":"a"},
      {"type":"image_url","image_url":{"url":"data:1","detail":"low"}},"b",
      {"type":"image_url","image_url":"data:2"},{"image_url":{"url":"data:3"}},
      {"type":"image","image":"data:4"},{"type":"input_image","image_url":"data:5"}]},
      {"role":"tool","content":[{"type":"image_url","image_url":{"url":"data:6"},"uuid":"x"}]}])");
  EXPECT_EQ(count_parts(messages, PartKind::kImage), 6);
  EXPECT_EQ(count_parts(messages, PartKind::kVideo), 0);
  std::vector<MediaItem> items = take_media(messages);
  ASSERT_EQ(items.size(), 6U);
  EXPECT_EQ(items[4].uuid, "");
  EXPECT_EQ(items[5].uuid, "x");
  EXPECT_EQ(take_urls(items),
            (std::vector<std::string>{"data:1", "data:2", "data:3", "data:4", "data:5", "data:6"}));
  EXPECT_EQ(messages.dump().find("data:"), std::string::npos) << "the URLs have left";
  EXPECT_EQ(count_parts(messages, PartKind::kImage), 6);
  EXPECT_EQ(
      template_messages(messages, ContentFormat::kOpenAi, {"<i>", "<v>"})[0]["content"].dump(),
      R"([{"type":"text","text":"a"},{"type":"image"},{"type":"text","text":"b"},)"
      R"({"type":"image"},{"type":"image"},{"type":"image"},{"type":"image"}])");
  EXPECT_EQ(template_messages(messages, ContentFormat::kString, {"<i>", "<v>"})[0]["content"],
            "a\n<i>\nb\n<i>\n<i>\n<i>\n<i>");
}

TEST(TemplateMessages, VideosAndImagesKeepTheirOrder) {
  Json messages = json(R"([{"role":"user","content":[
      {"type":"video_url","video_url":{"url":"data:1"}},{"type":"text","text":"a"},
      {"type":"image_url","image_url":null,"uuid":"known"},
      {"type":"video_url","video_url":{"url":"data:2"},"uuid":"v"}]}])");
  std::vector<MediaItem> items = take_media(messages);
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0].kind, PartKind::kVideo);
  EXPECT_EQ(items[1].kind, PartKind::kImage);
  EXPECT_FALSE(items[1].has_url);
  EXPECT_EQ(take_urls(items), (std::vector<std::string>{"data:1", "data:2"}));
  std::vector<Media> media(2);
  media[0].bytes = "one";
  media[1].bytes = "two";
  put_media(std::move(media), items);
  EXPECT_EQ(items[0].media.bytes, "one");
  EXPECT_EQ(items[1].media.bytes, "");
  EXPECT_EQ(items[2].media.bytes, "two");
  EXPECT_EQ(template_messages(messages, ContentFormat::kOpenAi)[0]["content"].dump(),
            R"([{"type":"video"},{"type":"text","text":"a"},{"type":"image"},{"type":"video"}])");
  EXPECT_EQ(template_messages(messages, ContentFormat::kString, {"<i>", "<v>"})[0]["content"],
            "<v>\na\n<i>\n<v>");
}

TEST(TemplateMessages, AnImageNeedsAUrl) {
  for (const char* part :
       {R"({"type":"image_url"})", R"({"type":"image_url","image_url":{}})",
        R"({"type":"image_url","image_url":null,"uuid":""})",
        R"({"type":"image_url","image_url":5})",
        R"({"type":"image_url","image_url":{"url":["data:"]}})", R"({"type":"image"})"}) {
    Json messages = json(R"([{"role":"user","content":"a"},{"role":"user","content":[)" +
                         std::string(part) + "]}]");
    try {
      take_media(messages);
      ADD_FAILURE() << part;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), 400);
      EXPECT_STREQ(error.what(), "messages[1]: an image part needs `image_url` with a `url`");
    }
  }
  Json messages = json(
      R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"},"uuid":5}]}])");
  EXPECT_THAT(quern::test::error_message<ApiError>([&] { take_media(messages); }),
              ::testing::HasSubstr("`uuid` must be a string of at most 1024 bytes"));
}

TEST(TemplateMessages, WrongOnesAreNamed) {
  struct Case {
    const char* messages;
    const char* text;
  };
  const Case cases[] = {
      {R"([{"role":"user","content":5}])", "messages[0]: `content` must be"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "needs a string `text`"},
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
