// The Jinja engine against recorded renderings of jinja2 (tools/text_compare_with_peers.py compares
// anew).
#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/text/chat_template.h"
#include "quern/text/jinja.h"

namespace quern {
namespace {

const std::string kGolden = std::string(QUERN_SOURCE_DIR) + "/tests/golden/text/";

TEST(JinjaGolden, SnippetsRenderAsInJinja2) {
  const Json golden = parse_json(read_file(kGolden + "jinja_snippets.json", 1u << 22), "snippets");
  ASSERT_GE(golden["cases"].size(), 370u);
  for (const Json& entry : golden["cases"]) {
    const bool chat = entry.contains("chat");
    std::string found;
    bool failed = false;
    try {
      found = Template::parse(entry["template"].get<std::string>(), "t",
                              {.trim_blocks = chat, .lstrip_blocks = chat})
                  .render(golden["context"]);
    } catch (const Error&) {
      failed = true;
    }
    EXPECT_EQ(failed, entry.contains("error")) << entry;
    if (!failed && entry.contains("rendered")) {
      EXPECT_EQ(found, entry["rendered"].get<std::string>()) << entry;
    }
  }
}

TEST(Jinja, IsBounded) {
  const char* sources[] = {
      "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ range(1000000000) }}",
      "{{ 'a' * 1000000000 }}",
      "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s "
      "%}{% endfor %}",
  };
  for (const char* source : sources) {
    const Template parsed = Template::parse(source, "t");
    EXPECT_THROW(parsed.render(Json::object(), {.max_steps = 5'000'000}), Error) << source;
  }
  EXPECT_THROW(Template::parse("{{ " + std::string(100'000, '(') + " }}", "t"), Error);
  for (const std::string link : {"+1", "**1", " or 1", " and 1", " if 1 else 1", "-(1", "*2"}) {
    std::string chain = "{{ 1";
    for (int i = 0; i < 20'000; ++i) chain += link;
    EXPECT_THROW(Template::parse(chain + " }}", "t"), Error) << link;
  }
}

TEST(MiniMaxM3Template, RendersTheToolRoundTrip) {
  const auto chat =
      ChatTemplate::parse(read_file(kGolden + "minimax_m3_chat_template.jinja", 1u << 20), "m3");
  const Json messages = Json::parse(R"([
    {"role":"user","content":"Weather in Oslo?"},
    {"role":"assistant","content":"Checking.","reasoning_content":"Need the tool.","tool_calls":[{"function":
      {"name":"get_weather","arguments":{"city":"Oslo","opts":{"metric":true,"days":[1,2],"none":null}}}}]},
    {"role":"tool","content":"12 C"}])");
  const std::string text = chat.render(messages, nullptr, true, {{"thinking_mode", "enabled"}});
  EXPECT_TRUE(
      text.starts_with("]~!b[]~b]system\nYour model version is MiniMax-M3, developed by MiniMax."));
  const std::string turns =
      "</thinking_instructions>[e~[\n]~b]developer\nYou are a helpful assistant.[e~[\n"
      "]~b]user\nWeather in Oslo?[e~[\n]~b]ai\n<mm:think>Need the tool.</mm:think>Checking."
      "]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"get_weather\">]<]minimax[>[<city>Oslo"
      "]<]minimax[>[</city>]<]minimax[>[<opts>]<]minimax[>[<metric>true]<]minimax[>[</metric>"
      "]<]minimax[>[<days>]<]minimax[>[<item>1]<]minimax[>[</"
      "item>]<]minimax[>[<item>2]<]minimax[>[</item>"
      "]<]minimax[>[</days>]<]minimax[>[</opts>]<]minimax[>[</invoke>\n]<]minimax[>[</"
      "tool_call>[e~[\n"
      "]~b]tool\n<response>12 C</response>[e~[\n]~b]ai\n<mm:think>";
  EXPECT_TRUE(text.ends_with(turns)) << text;
}

}  // namespace
}  // namespace quern
