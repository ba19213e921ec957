// Golden bytes of answers, and the way from engine output to deltas.
#include "quern/server/chat_response.h"
#include "quern/server/answer_json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/server/api_error.h"
#include "quern/server/chat_answer.h"
#include "tests/support/tiny_model_tokenizer.h"

namespace quern::server {
namespace {

using quern::test::tiny_model_tokenizer;

ChatPlan plan_of(int n = 1) {
  ChatPlan plan;
  plan.id = "chatcmpl-X";
  plan.model = "NAME";
  plan.created = 1781000000;
  plan.n = n;
  plan.prompt.assign(1032, 1);
  plan.parser = {.parse_reasoning = true, .starts_in_reasoning = false, .parse_tools = true};
  return plan;
}

engine::Output output(std::string text, std::optional<engine::FinishReason> reason = {},
                      int completion_tokens = 1) {
  engine::Output out;
  out.text = std::move(text);
  out.finish_reason = reason;
  out.completion_tokens = completion_tokens;
  out.token_ids = {7};
  return out;
}

constexpr const char* kHead =
    R"(data: {"id":"chatcmpl-X","object":"chat.completion.chunk","created":1781000000,"model":"NAME","choices":)";

TEST(ChatWriter, EventsByteByByte) {
  const ChatPlan plan = plan_of();
  const ChatWriter writer(plan, tiny_model_tokenizer());
  const std::string head = kHead;
  EXPECT_EQ(writer.role_event(0),
            head + R"([{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
                   R"("finish_reason":null}],"prompt_token_ids":null})"
                   "\n\n");
  ChatDelta delta;
  delta.reasoning = "The";
  EXPECT_EQ(writer.delta_event(delta),
            head + R"([{"index":0,"delta":{"reasoning":"The"},"logprobs":null,)"
                   R"("finish_reason":null,"token_ids":null}]})"
                   "\n\n");
  delta = {};
  delta.content = "18 \xC3\xA9";
  EXPECT_EQ(writer.delta_event(delta),
            head +
                "[{\"index\":0,\"delta\":{\"content\":\"18 \xC3\xA9\"},\"logprobs\":null,"
                "\"finish_reason\":null,\"token_ids\":null}]}\n\n");
  delta = {};
  delta.finish_reason = "stop";
  EXPECT_EQ(writer.delta_event(delta),
            head + R"([{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop",)"
                   R"("stop_reason":null,"token_ids":null}]})"
                   "\n\n");
  delta = {};
  delta.tool_calls = {{0, "chatcmpl-tool-1", "get_weather", ""},
                      {0, "", "", R"({"city": "Oslo"})"}};
  EXPECT_EQ(writer.delta_event(delta),
            head +
                R"([{"index":0,"delta":{"tool_calls":[{"index":0,"id":"chatcmpl-tool-1",)"
                R"("type":"function","function":{"name":"get_weather","arguments":""}},)"
                R"({"index":0,"function":{"arguments":"{\"city\": \"Oslo\"}"}}]},"logprobs":null,)"
                R"("finish_reason":null,"token_ids":null}]})"
                "\n\n");
  EXPECT_EQ(writer.usage_event({1032, 168, 0}),
            head +
                R"([],"usage":{"prompt_tokens":1032,"total_tokens":1200,"completion_tokens":168}})"
                "\n\n");
  EXPECT_EQ(kDoneEvent, "data: [DONE]\n\n");
}

TEST(ChatWriter, BodyByteByByte) {
  const ChatPlan plan = plan_of();
  ChatCompletion completion;
  completion.choices.resize(1);
  completion.choices[0].content = "18";
  completion.choices[0].reasoning = "9 + 9";
  completion.choices[0].finish_reason = "stop";
  completion.choices[0].stop_reason = "Question:";
  completion.usage = {1032, 168, 0};
  EXPECT_EQ(
      ChatWriter(plan, tiny_model_tokenizer()).body(completion),
      R"({"id":"chatcmpl-X","object":"chat.completion","created":1781000000,"model":"NAME",)"
      R"("choices":[{"index":0,"message":{"role":"assistant","content":"18","refusal":null,)"
      R"("annotations":null,"audio":null,"function_call":null,"reasoning":"9 + 9"},)"
      R"("logprobs":null,"finish_reason":"stop","stop_reason":"Question:","token_ids":null}],)"
      R"("service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":1032,)"
      R"("total_tokens":1200,"completion_tokens":168,"prompt_tokens_details":null},)"
      R"("prompt_logprobs":null,"prompt_token_ids":null,"kv_transfer_params":null})");
}

TEST(ChatWriter, LogprobsCarryTextBytesAndTheRequestedAlternatives) {
  ChatPlan plan = plan_of();
  plan.sampling.logprobs = 2;
  ChatDelta delta;
  delta.content = "x";
  const std::int32_t id = tiny_model_tokenizer().encode("A").at(0);
  delta.logprobs = {{{id, -0.5F}, 1, {{id, -0.5F}, {id, -INFINITY}}}};
  const std::string entry = R"({"token":"A","logprob":-0.5,"bytes":[65])";
  EXPECT_NE(ChatWriter(plan, tiny_model_tokenizer())
                .delta_event(delta)
                .find(R"("logprobs":{"content":[)" + entry + R"(,"top_logprobs":[)" + entry +
                      R"(},{"token":"A","logprob":-9999.0,"bytes":[65]}]}]})"),
            std::string::npos)
      << ChatWriter(plan, tiny_model_tokenizer()).delta_event(delta);
}

TEST(ChatAnswer, SeparatesReasoningContentAndCallsAtAnyCut) {
  const std::string ns = "]<]minimax[>[";
  const std::string text = "<mm:think>plan</mm:think>Checking. " + ns + "<tool_call>\n" + ns +
                           "<invoke name=\"get_weather\">" + ns + "<city>Oslo" + ns + "</city>" +
                           ns + "</invoke>\n" + ns + "</tool_call>";
  ChatPlan plan = plan_of();
  plan.tools = std::make_shared<const Json>(parse_json(
      R"([{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
          "properties":{"city":{"type":"string"}}}}}])",
      "test"));
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    ChatAnswer answer(plan);
    ChatCompletion completion;
    for (const auto& piece : {text.substr(0, cut), text.substr(cut)}) {
      if (const auto delta = answer.feed(0, output(piece))) completion.add(*delta);
    }
    EXPECT_FALSE(answer.finished());
    const auto last = answer.feed(0, output("", engine::FinishReason::kStop, 9));
    ASSERT_TRUE(last);
    completion.add(*last);
    EXPECT_TRUE(answer.finished());
    const ChatChoice& choice = completion.choices.at(0);
    EXPECT_EQ(choice.reasoning, "plan") << cut;
    EXPECT_EQ(choice.content, "Checking. ") << cut;
    ASSERT_EQ(choice.tool_calls.size(), 1U) << cut;
    EXPECT_EQ(choice.tool_calls[0].name, "get_weather");
    EXPECT_EQ(choice.tool_calls[0].arguments, R"({"city": "Oslo"})");
    EXPECT_TRUE(choice.tool_calls[0].id.starts_with("chatcmpl-tool-"));
    EXPECT_EQ(choice.finish_reason, "tool_calls");
    EXPECT_EQ(choice.token_ids.size(), 3U);
    EXPECT_EQ(answer.usage().completion_tokens, 9);
  }
}

TEST(ChatAnswer, HidesReasoningOnRequestAndReportsFailures) {
  ChatPlan plan = plan_of();
  plan.include_reasoning = false;
  ChatAnswer answer(plan);
  EXPECT_FALSE(answer.feed(0, output("<mm:think>secret")));
  const auto delta = answer.feed(0, output("</mm:think>open"));
  ASSERT_TRUE(delta);
  EXPECT_EQ(delta->content, "open");
  EXPECT_EQ(delta->reasoning, "");
  EXPECT_EQ(delta->token_ids.size(), 1U);
  EXPECT_THROW(answer.feed(0, output("", engine::FinishReason::kError)), ApiError);
}

TEST(ChatAnswer, HeldTextComesAtTheEnd) {
  const ChatPlan plan = plan_of();
  ChatAnswer answer(plan);
  EXPECT_FALSE(answer.feed(0, output("<mm:th")));
  const auto delta = answer.feed(0, output("", engine::FinishReason::kLength));
  ASSERT_TRUE(delta);
  EXPECT_EQ(delta->content, "<mm:th");
  EXPECT_EQ(delta->finish_reason, "length");
}

}  // namespace
}  // namespace quern::server
