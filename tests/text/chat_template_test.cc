// Chat templates: recorded renderings of jinja2 for m3-tiny, content format, continued messages.
#include "quern/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

TEST(ChatTemplate, M3TinyAsRecorded) {
  const ChatTemplate chat = ChatTemplate::load(test::kTinyModel);
  const std::string file = "m3_tiny_chat_template.json";
  const Json golden =
      parse_json(read_file(QUERN_SOURCE_DIR "/tests/golden/text/" + file, 1u << 22), file);
  ASSERT_EQ(golden.size(), 12u);
  for (const Json& entry : golden) {
    const Json& input = entry["input"];
    Json kwargs = Json::object();
    if (input.contains("thinking_mode")) kwargs["thinking_mode"] = input["thinking_mode"];
    EXPECT_EQ(chat.render(input["messages"], input.value("tools", Json()),
                          input.value("add_generation_prompt", false), kwargs),
              entry["rendered"].get<std::string>())
        << input;
  }
}

TEST(ChatTemplate, ContentFormatAsVllmDetectsIt) {
  const auto format = [](const char* source) {
    return ChatTemplate::parse(source, "t").content_format();
  };
  EXPECT_EQ(format("{% for m in messages %}{{ m.content }}{% endfor %}"), ContentFormat::kString);
  EXPECT_EQ(format("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}"),
            ContentFormat::kOpenAi);
  EXPECT_EQ(
      format("{% set ms = messages[1:] %}{% for m in ms %}{% set c = m.content %}{% for p in c %}"
             "{% endfor %}{% endfor %}"),
      ContentFormat::kOpenAi);
  // A macro's loop counts when its variable is called `content` (vLLM PR 42660), else not.
  const std::string macro =
      "{% macro text(content) %}{% for p in content %}{% endfor %}{% endmacro %}"
      "{% for m in messages %}{{ text(m.content) }}{% endfor %}";
  EXPECT_EQ(format(macro.c_str()), ContentFormat::kOpenAi);
  EXPECT_EQ(format("{% macro text(items) %}{% for p in items %}{% endfor %}{% endmacro %}"
                   "{% for m in messages %}{{ text(m.content) }}{% endfor %}"),
            ContentFormat::kString);
  EXPECT_EQ(format("{% for m in messages %}{% for k, v in content %}{% endfor %}{% endfor %}"),
            ContentFormat::kString);
}

// Both templates of the MiniMax-M3 family take parts, so an image stays where it stands.
TEST(ChatTemplate, MiniMaxM3TemplatesTakeParts) {
  const std::string golden = QUERN_SOURCE_DIR "/tests/golden/text/minimax_m3_chat_template.jinja";
  const ChatTemplate templates[] = {ChatTemplate::load(QUERN_SOURCE_DIR "/models/m3-tiny"),
                                    ChatTemplate::parse(read_file(golden, 1 << 20), golden)};
  const Json messages = Json::parse(
      R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"image"},{"type":"text","text":"b"}]}])");
  for (const ChatTemplate& chat : templates) {
    EXPECT_EQ(chat.content_format(), ContentFormat::kOpenAi);
    EXPECT_NE(chat.render(messages, nullptr, true).find("]~b]user\na]<]image[>[b[e~["),
              std::string::npos);
  }
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  const ChatTemplate chat = ChatTemplate::parse(
      "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}", "t");
  const ChatTemplateOptions options = {.add_generation_prompt = false,
                                       .continue_final_message = true};
  const Json messages =
      Json::parse(R"([{"role":"user","content":"a"},{"role":"ai","content":"b "}])");
  EXPECT_EQ(chat.render(messages, nullptr, options), "<user>a</><ai>b");
  EXPECT_THROW(chat.render(messages, nullptr, {true, true}), Error);
}

}  // namespace
}  // namespace quern
