// POST /v1/messages: bodies to chat bodies, answers to messages and events.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quern/server/api_error.h"
#include "quern/server/messages_request.h"
#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

Json chat_of(const std::string& fields) {
  return chat_body_of_messages(R"({"model":"tiny","max_tokens":9,)" + fields + "}", true);
}

TEST(MessagesRequest, BlocksBecomeMessages) {
  const struct {
    const char* what;
    const char* fields;
    const char* messages;
  } rows[] = {
      {"plain text", R"("messages":[{"role":"user","content":"hi"}])",
       R"([{"role":"user","content":"hi"}])"},
      {"other roles are users", R"("messages":[{"role":"ctx","content":"hi"}])",
       R"([{"role":"user","content":"hi"}])"},
      {"system as text", R"("system":"be brief","messages":[])",
       R"([{"role":"system","content":"be brief"}])"},
      {"system as blocks, the billing header dropped",
       R"("system":[{"type":"text","text":"x-anthropic-billing-header: 7"},{"type":"text","text":"a"},{"type":"text","text":"b"}],"messages":[])",
       R"([{"role":"system","content":"ab"}])"},
      {"images",
       R"("messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QQ=="}},{"type":"image","source":{"type":"url","url":"http://a/b"}}]}])",
       R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}},{"type":"image_url","image_url":{"url":"http://a/b"}}]}])"},
      {"thinking and calls of the model",
       R"("messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"redacted_thinking","data":"x"},{"type":"text","text":"ok"},{"type":"tool_use","id":"t1","name":"f","input":{"a":1}}]}])",
       R"([{"role":"assistant","content":[{"type":"text","text":"ok"}],"reasoning":"hm","tool_calls":[{"id":"t1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}])"},
      {"results of calls, then what the user says",
       R"("messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"1"},{"type":"text","text":"2"}]},{"type":"text","text":"go"}]}])",
       R"([{"role":"tool","tool_call_id":"t1","content":"1\n2"},{"role":"user","content":[{"type":"text","text":"go"}]}])"},
      {"an image as result",
       R"("messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"image","source":{"type":"url","url":"http://a/b"}}]}]}])",
       R"([{"role":"tool","tool_call_id":"t1","content":""},{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a/b"}}]}])"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(chat_of(row.fields)["messages"], Json::parse(row.messages)) << row.what;
  }
}

TEST(MessagesRequest, FieldsBecomeFields) {
  const Json chat = chat_of(
      R"("messages":[],"stop_sequences":["x"],"top_k":3,"stream":true,"output_config":{"effort":"low"},)"
      R"("tools":[{"name":"f","description":"d","input_schema":{"properties":{}}}],)"
      R"("tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true})");
  EXPECT_EQ(chat["max_tokens"], 9);
  EXPECT_EQ(chat["stop"], Json::parse(R"(["x"])"));
  EXPECT_EQ(chat["top_k"], 3);
  EXPECT_EQ(chat["reasoning_effort"], "low");
  EXPECT_EQ(chat["parallel_tool_calls"], false);
  EXPECT_EQ(
      chat["tools"],
      Json::parse(
          R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"properties":{},"type":"object"}}}])"));
  EXPECT_EQ(chat["tool_choice"]["function"]["name"], "f");
  const auto choice = [](const std::string& type) {
    return chat_of(R"("messages":[],"tools":[{"name":"f"}],"tool_choice":{"type":")" + type +
                   R"("})")["tool_choice"];
  };
  EXPECT_EQ(choice("any"), "required");
  EXPECT_EQ(choice("auto"), "auto");
  EXPECT_EQ(choice("none"), "none");
}

TEST(MessagesRequest, Refusals) {
  for (
      const char* body :
      {R"([])", R"({})", R"({"model":"a","max_tokens":1})", R"({"model":"a","messages":[]})",
       R"({"model":"a","messages":[],"max_tokens":0})",
       R"({"model":"a","messages":[5],"max_tokens":1})",
       R"({"model":"a","messages":[{"role":"user"}],"max_tokens":1})",
       R"({"model":"a","messages":[{"role":"user","content":[{"type":"video"}]}],"max_tokens":1})",
       R"({"model":"a","messages":[{"role":"user","content":[{"type":"image"}]}],"max_tokens":1})",
       R"({"model":"a","messages":[{"role":"user","content":[5]}],"max_tokens":1})",
       R"({"model":"a","messages":[],"max_tokens":1,"tools":[{}]})",
       R"({"model":"a","messages":[],"max_tokens":1,"system":5})",
       R"({"model":"a","messages":[],"max_tokens":1,"tools":[{"name":"f"}],"tool_choice":{"type":"x"}})"}) {
    EXPECT_THROW(chat_body_of_messages(body, true), ApiError) << body;
  }
}

class MessagesApi : public ApiFixture {
 protected:
  static std::string body(const std::string& fields) {
    return R"({"model":"tiny","max_tokens":100,"messages":[{"role":"user","content":"hi"}])" +
           fields + "}";
  }
  static constexpr const char* kTools =
      R"(,"tools":[{"name":"f","input_schema":{"type":"object","properties":{"a":{"type":"string"}}}}])";
  // Thinking, text and a call.
  void script() {
    const std::string ns = "]<]minimax[>[";
    generator_.pieces = {"<mm:think>hm", "</mm:think>ok",
                         ns + "<tool_call>" + ns + "<invoke name=\"f\">",
                         ns + "<a>x" + ns + "</a>" + ns + "</invoke>" + ns + "</tool_call>"};
  }
};

TEST_F(MessagesApi, ThinkingTextAndCallsAreBlocks) {
  script();
  start();
  const auto [status, text] = ask(post("/v1/messages", body(kTools)));
  EXPECT_EQ(status, "HTTP/1.1 200");
  const Json message = parse_json(text, "message");
  ASSERT_EQ(message["content"].size(), 3U) << text;
  EXPECT_EQ(message["content"][0]["thinking"], "hm");
  EXPECT_EQ(message["content"][1]["text"], "ok");
  EXPECT_EQ(message["content"][2]["type"], "tool_use");
  EXPECT_EQ(message["content"][2]["input"], Json::parse(R"({"a":"x"})"));
  EXPECT_EQ(message["stop_reason"], "tool_use");
  EXPECT_EQ(message["role"], "assistant");
  EXPECT_GT(message["usage"]["input_tokens"], 0);
}

// Blocks open and close one after the other, with growing numbers.
TEST_F(MessagesApi, EventsBuildTheSameMessage) {
  script();
  start();
  const std::string text =
      unchunk(ask(post("/v1/messages", body(std::string(kTools) + R"(,"stream":true)"))).second);
  std::vector<std::string> types;
  std::string thinking, said, arguments;
  int open = -1;
  for (std::size_t at = 0; (at = text.find("data: ", at)) != std::string::npos; ++at) {
    const Json event = parse_json(text.substr(at + 6, text.find('\n', at) - at - 6), "event");
    const std::string type = event["type"];
    EXPECT_EQ(text.substr(at - type.size() - 8, type.size() + 8), "event: " + type + "\n");
    if (types.empty() || types.back() != type) types.push_back(type);
    if (type == "content_block_start") {
      EXPECT_EQ(event["index"], ++open);
    } else if (type == "content_block_delta") {
      EXPECT_EQ(event["index"], open);
      thinking += event["delta"].value("thinking", "");
      said += event["delta"].value("text", "");
      arguments += event["delta"].value("partial_json", "");
    } else if (type == "message_delta") {
      EXPECT_EQ(event["delta"]["stop_reason"], "tool_use");
    }
  }
  EXPECT_EQ(types.front(), "message_start");
  EXPECT_EQ(types.back(), "message_stop");
  EXPECT_EQ(open, 2);
  EXPECT_EQ(thinking, "hm");
  EXPECT_EQ(said, "ok");
  EXPECT_EQ(Json::parse(arguments), Json::parse(R"({"a":"x"})"));
}

TEST_F(MessagesApi, ErrorsAndCounting) {
  start();
  auto [status, text] =
      ask(post("/v1/messages",
               R"({"model":"x","max_tokens":1,"messages":[{"role":"user","content":"a"}]})"));
  EXPECT_EQ(status, "HTTP/1.1 404");
  EXPECT_EQ(
      text,
      R"({"type":"error","error":{"type":"not_found_error","message":"The model `x` does not exist."}})");
  EXPECT_EQ(ask(post("/v1/messages", "{")).first, "HTTP/1.1 400");
  for (const char* wrong :
       {R"("system":["text"])", R"("tool_choice":{"type":1},"tools":[{"name":"f"}])"}) {
    const auto answer =
        ask(post("/v1/messages",
                 R"({"model":"tiny","max_tokens":1,"messages":[{"role":"user","content":"a"}],)" +
                     std::string(wrong) + "}"));
    EXPECT_EQ(answer.first, "HTTP/1.1 400") << wrong;
    EXPECT_NE(answer.second.find(R"("type":"invalid_request_error")"), std::string::npos) << wrong;
  }
  const auto count = ask(post("/v1/messages/count_tokens",
                              R"({"model":"tiny","messages":[{"role":"user","content":"a"}]})"));
  EXPECT_EQ(count.first, "HTTP/1.1 200");
  EXPECT_GT(parse_json(count.second, "count")["input_tokens"], 0);
  generator_.fail = true;
  generator_.pieces.clear();
  EXPECT_NE(ask(post("/v1/messages", body(""))).second.find(R"("type":"api_error")"),
            std::string::npos);
}

// What nobody foresaw is told in this protocol's form as well, without its text.
TEST_F(MessagesApi, UnforeseenErrorsHaveTheFormToo) {
  start();
  generator_.on_submit = [](const auto&) { throw std::runtime_error("a secret"); };
  const auto [status, text] = ask(post("/v1/messages", body("")));
  EXPECT_EQ(status, "HTTP/1.1 500");
  EXPECT_EQ(text,
            R"({"type":"error","error":{"type":"api_error","message":"Internal server error"}})");
}

}  // namespace
}  // namespace quern::server
