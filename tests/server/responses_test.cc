// POST /v1/responses: bodies to chat bodies, answers to responses and events, the store.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quern/server/api_error.h"
#include "quern/server/response_store.h"
#include "quern/server/responses_request.h"
#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

Json no_history(const std::string&) { return nullptr; }

Json messages_of(const std::string& fields) {
  return parse_responses_request("{" + fields + "}", no_history).chat["messages"];
}

TEST(ResponsesRequest, ItemsBecomeMessages) {
  const struct {
    const char* what;
    const char* fields;
    const char* messages;
  } rows[] = {
      {"text", R"("input":"hi")", R"([{"role":"user","content":"hi"}])"},
      {"instructions", R"("input":"hi","instructions":"be brief")",
       R"([{"role":"system","content":"be brief"},{"role":"user","content":"hi"}])"},
      {"parts",
       R"("input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"http://a/b"}]}])",
       R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"http://a/b"}}]}])"},
      {"a turn of the model is one message",
       R"("input":[{"type":"reasoning","id":"r","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},)"
       R"({"type":"message","role":"assistant","content":[{"type":"output_text","text":"ok"}]},)"
       R"({"type":"function_call","call_id":"c","name":"f","arguments":"{}"},)"
       R"({"type":"function_call_output","call_id":"c","output":"7"}])",
       R"([{"role":"assistant","content":[{"type":"text","text":"ok"}],"reasoning":"hm",)"
       R"("tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},)"
       R"({"role":"tool","tool_call_id":"c","content":"7"}])"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(messages_of(row.fields), Json::parse(row.messages)) << row.what;
  }
}

TEST(ResponsesRequest, FieldsBecomeFields) {
  const Json chat =
      parse_responses_request(
          R"({"input":"a","max_output_tokens":7,"reasoning":{"effort":"high"},"temperature":0,)"
          R"("text":{"format":{"type":"json_schema","name":"n","schema":{}}},)"
          R"("tools":[{"type":"function","name":"f","parameters":{},"strict":null}],)"
          R"("tool_choice":{"type":"function","name":"f"}})",
          no_history)
          .chat;
  EXPECT_EQ(chat["max_tokens"], 7);
  EXPECT_EQ(chat["reasoning_effort"], "high");
  EXPECT_EQ(chat["temperature"], 0);
  EXPECT_EQ(chat["response_format"]["json_schema"]["name"], "n");
  EXPECT_EQ(chat["tools"][0]["function"], Json::parse(R"({"name":"f","parameters":{}})"));
  EXPECT_EQ(chat["tool_choice"]["function"]["name"], "f");
}

TEST(ResponsesRequest, Refusals) {
  for (const char* body :
       {"[]", "{}", R"({"input":5})", R"({"input":[5]})", R"({"input":[{"type":"x"}]})",
        R"({"input":[{"role":"user"}]})", R"({"input":[{"content":"a"}]})",
        R"({"input":[{"role":"user","content":[{"type":"input_audio"}]}]})",
        R"({"input":[{"type":"reasoning","summary":[5]}]})",
        R"({"input":[{"type":"function_call","call_id":"c"}]})",
        R"({"input":[{"type":"function_call_output","call_id":"c"}]})",
        R"({"input":"a","tools":[{"type":"web_search"}]})", R"({"input":"a","text":5})",
        R"({"input":"a","prompt":{"id":"p"}})", R"({"input":"a","background":true})",
        R"({"input":"a","previous_response_id":"r"})"}) {
    EXPECT_THROW(parse_responses_request(body, no_history), ApiError) << body;
  }
}

TEST(ResponseStore, TheOldestGoesFirst) {
  ResponseStore store(2, 100);
  store.add("a", 1, Json::array(), 10);
  store.add("b", 2, Json::array(), 10);
  store.add("c", 3, Json::array(), 10);
  EXPECT_TRUE(store.response("a").is_null());
  EXPECT_EQ(store.response("b"), 2);
  store.add("d", 4, Json::array(), 95);  // leaves no room for another
  EXPECT_TRUE(store.response("c").is_null());
  EXPECT_EQ(store.response("d"), 4);
  store.add("e", 5, Json::array(), 101);
  EXPECT_TRUE(store.response("e").is_null());
  ResponseStore none(0, 100);
  none.add("a", 1, Json::array(), 1);
  EXPECT_TRUE(none.response("a").is_null());
}

class ResponsesApi : public ApiFixture {
 protected:
  static constexpr const char* kBody =
      R"({"input":"hi","tools":[{"type":"function","name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}])";
  void script() {
    const std::string ns = "]<]minimax[>[";
    generator_.pieces = {"<mm:think>hm", "</mm:think>ok",
                         ns + "<tool_call>" + ns + "<invoke name=\"f\">" + ns + "<a>x" + ns +
                             "</a>" + ns + "</invoke>" + ns + "</tool_call>"};
  }
  static void expect_items(const Json& output) {
    ASSERT_EQ(output.size(), 3U) << output.dump();
    EXPECT_EQ(output[0]["type"], "reasoning");
    EXPECT_EQ(output[0]["content"][0]["text"], "hm");
    EXPECT_EQ(output[1]["type"], "message");
    EXPECT_EQ(output[1]["content"][0]["text"], "ok");
    EXPECT_EQ(output[2]["type"], "function_call");
    EXPECT_EQ(output[2]["name"], "f");
    EXPECT_EQ(Json::parse(output[2]["arguments"].get<std::string>()), Json::parse(R"({"a":"x"})"));
  }
};

TEST_F(ResponsesApi, ItemsOfAWholeAnswer) {
  script();
  start();
  const auto [status, text] = ask(post("/v1/responses", std::string(kBody) + "}"));
  EXPECT_EQ(status, "HTTP/1.1 200");
  const Json response = parse_json(text, "response");
  EXPECT_EQ(response["status"], "completed");
  EXPECT_EQ(response["object"], "response");
  EXPECT_GT(response["usage"]["input_tokens"], 0);
  expect_items(response["output"]);
}

// Numbers grow by one; every item that is added is done; the deltas add up to the items.
TEST_F(ResponsesApi, EventsBuildTheSameResponse) {
  script();
  start();
  const std::string text =
      unchunk(ask(post("/v1/responses", std::string(kBody) + R"(,"stream":true})")).second);
  int sequence = 0, added = 0, done = 0;
  std::string deltas[3];
  Json last;
  for (std::size_t at = 0; (at = text.find("data: ", at)) != std::string::npos; ++at) {
    last = parse_json(text.substr(at + 6, text.find('\n', at) - at - 6), "event");
    EXPECT_EQ(last["sequence_number"], sequence++);
    const std::string type = last["type"];
    if (type == "response.output_item.added") {
      EXPECT_EQ(last["output_index"], added++);
    } else if (type == "response.output_item.done") {
      EXPECT_EQ(last["output_index"], done++);
    }
    if (type.ends_with(".delta")) {
      deltas[last["output_index"].get<std::size_t>()] += last["delta"].get<std::string>();
    }
  }
  EXPECT_EQ(added, 3);
  EXPECT_EQ(done, 3);
  EXPECT_EQ(deltas[0], "hm");
  EXPECT_EQ(deltas[1], "ok");
  EXPECT_EQ(last["type"], "response.completed");
  expect_items(last["response"]["output"]);
  EXPECT_EQ(text.find("[DONE]"), std::string::npos);
}

TEST_F(ResponsesApi, StoreServesLaterRequests) {
  options_.store_responses = true;
  start();
  const Json first = parse_json(ask(post("/v1/responses", R"({"input":"hi"})")).second, "first");
  const std::string id = first["id"];
  EXPECT_EQ(parse_json(ask(get("/v1/responses/" + id)).second, "again"), first);
  const auto second =
      ask(post("/v1/responses", R"({"input":"and","previous_response_id":")" + id + "\"}"));
  EXPECT_EQ(second.first, "HTTP/1.1 200");
  EXPECT_GT(parse_json(second.second, "second")["usage"]["input_tokens"],
            first["usage"]["input_tokens"]);
  EXPECT_EQ(ask(post("/v1/responses/" + id + "/cancel", "{}")).first, "HTTP/1.1 400");
  EXPECT_EQ(ask(get("/v1/responses/none")).first, "HTTP/1.1 404");
  EXPECT_EQ(ask(post("/v1/responses/none/cancel", "{}")).first, "HTTP/1.1 404");
  EXPECT_EQ(ask(get("/v1/responses/")).first, "HTTP/1.1 404");
}

TEST_F(ResponsesApi, NothingIsKeptUnlessEnabled) {
  start();
  const Json first = parse_json(ask(post("/v1/responses", R"({"input":"hi"})")).second, "first");
  EXPECT_EQ(ask(get("/v1/responses/" + first["id"].get<std::string>())).first, "HTTP/1.1 404");
}

}  // namespace
}  // namespace quern::server
