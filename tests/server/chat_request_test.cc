// Bodies that are right and wrong, with the texts that clients match on.
#include "quern/server/chat_request.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

constexpr const char* kMessages = R"("messages":[{"role":"user","content":"hi"}])";

std::string with(const std::string& fields) {
  return std::string("{") + kMessages + (fields.empty() ? "" : "," + fields) + "}";
}

TEST(ChatRequest, ReadsEveryKindOfField) {
  const ChatRequest request = parse_chat_request(with(
      R"("model":"m","max_tokens":"7","temperature":"0.5","top_p":1,"seed":-1,"n":2,"stop":"x",)"
      R"("logprobs":true,"top_logprobs":3,"logit_bias":{"5":-200,"6":"1.5"},"stream":"yes",)"
      R"("stream_options":{"include_usage":true},"min_p":null,"unknown":{"a":[1]},)"
      R"("chat_template_kwargs":{"thinking_mode":"enabled"},"stop_token_ids":[1,2.0])"));
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_FALSE(request.max_completion_tokens);
  EXPECT_EQ(request.temperature, 0.5);
  EXPECT_EQ(request.top_p, 1.0);
  EXPECT_FALSE(request.min_p);
  EXPECT_EQ(request.seed, -1);
  EXPECT_EQ(request.n, 2);
  EXPECT_EQ(request.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(request.stop_token_ids, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(request.top_logprobs, 3);
  ASSERT_EQ(request.logit_bias.size(), 2U);
  EXPECT_EQ(request.logit_bias[1], (std::pair<std::int64_t, double>{6, 1.5}));
  EXPECT_TRUE(request.stream && request.include_usage && request.logprobs);
  EXPECT_EQ(request.chat_template_kwargs["thinking_mode"], "enabled");
  EXPECT_TRUE(request.tools.is_null());
}

TEST(ChatRequest, DefaultsAreThoseOfTheProtocol) {
  const ChatRequest request = parse_chat_request(with(""));
  EXPECT_EQ(request.n, 1);
  EXPECT_FALSE(request.stream || request.include_usage || request.logprobs || request.ignore_eos);
  EXPECT_TRUE(request.add_generation_prompt && request.include_reasoning &&
              request.parallel_tool_calls && request.skip_special_tokens);
}

TEST(ChatRequest, WrongBodiesAreNamed) {
  struct Case {
    std::string body;
    int status;
    std::string type;
    std::string param;
    std::string message;  // a part of it
  };
  const std::string deep(10000, '[');
  const Case cases[] = {
      {with(R"("temperature":"hot")"), 400, "Bad Request", "body.temperature",
       "1 validation error:\n  {'type': 'float_parsing', 'loc': ('body', 'temperature'), 'msg': "
       "'Input should be a valid number, unable to parse string as a number', 'input': 'hot'}"},
      {with(R"("n":1.5,"stream":3)"), 400, "Bad Request", "body.n", "2 validation errors:\n"},
      {with(R"("seed":99999999999999999999)"), 400, "Bad Request", "body.seed", "int_"},
      {R"({"model":"m"})", 400, "Bad Request", "body.messages",
       "{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': "
       "{'model': 'm'}}"},
      {R"({"messages":null})", 400, "Bad Request", "body.messages", "list_type"},
      {R"({"messages":"hi"})", 400, "Bad Request", "body.messages", "list_type"},
      {R"({"messages":[1]})", 400, "Bad Request", "body.messages", "dict_type"},
      {R"({"messages":[{"content":"x"}]})", 400, "Bad Request", "body.messages", "role"},
      {"", 400, "Bad Request", "body", "json_invalid"},
      {"[]", 400, "Bad Request", "body", "valid dictionary"},
      {with("") + "x", 400, "Bad Request", "body", "json_invalid"},
      {"{\"messages\":" + deep, 400, "Bad Request", "body", "nested deeper"},
      {with("\"user\":\"\xff\""), 400, "Bad Request", "body", "json_invalid"},
      {with(R"("user":"\ud800")"), 400, "Bad Request", "body", "json_invalid"},
      {with(R"("stream_options":{"include_usage":"maybe"},"stream":true)"), 400, "Bad Request",
       "body.stream_options.include_usage", "bool_parsing"},
      {with(R"("stream_options":{})"), 400, "BadRequestError", "stream_options",
       "Stream options can only be defined when `stream=True`."},
      {with(R"("tools":[])"), 400, "BadRequestError", "tools",
       "`tools` must not be an empty array"},
      {with(R"("tools":[{"type":"function"}])"), 400, "Bad Request", "body.tools", "function.name"},
      {with(R"("tool_choice":"auto")"), 400, "BadRequestError", "tool_choice",
       "When using `tool_choice`, `tools` must be set."},
      {with(R"("tool_choice":"sometimes")"), 400, "Bad Request", "body.tool_choice",
       "literal_error"},
      {with(R"("top_logprobs":2)"), 400, "BadRequestError", "top_logprobs", "must be set to true"},
      {with(R"("stop":["a",""])"), 400, "BadRequestError", "stop",
       "stop cannot contain an empty string."},
      {with(R"("continue_final_message":true,"add_generation_prompt":true)"), 400,
       "BadRequestError", "",
       "Cannot set both `continue_final_message` and `add_generation_prompt` to True."},
      {with(R"("response_format":{"type":"xml"})"), 400, "BadRequestError", "response_format",
       "must be text, json_object or json_schema"},
      {with(R"("use_beam_search":true)"), 501, "NotImplementedError", "use_beam_search",
       "not supported"},
      {with(R"("cache_salt":"a/b")"), 400, "BadRequestError", "cache_salt", "cache_salt"},
  };
  for (const Case& c : cases) {
    try {
      parse_chat_request(c.body);
      ADD_FAILURE() << "accepted: " << c.body.substr(0, 200);
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), c.status) << c.body.substr(0, 200);
      EXPECT_EQ(error.type(), c.type) << error.what();
      EXPECT_EQ(error.param(), c.param) << error.what();
      EXPECT_NE(std::string(error.what()).find(c.message), std::string::npos) << error.what();
      EXPECT_FALSE(dump(error.body()).empty());
    }
  }
}

TEST(ChatRequest, ShowsTenErrorsAtMost) {
  try {
    parse_chat_request(with(
        R"("n":"a","seed":"a","top_k":"a","top_p":"a","min_p":"a","max_tokens":"a","stream":"a",)"
        R"("logprobs":"a","min_tokens":"a","temperature":"a","top_logprobs":"a","ignore_eos":"a")"));
    FAIL();
  } catch (const ApiError& error) {
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("12 validation errors:"));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10);
  }
}

TEST(ChatRequest, TemplateVariablesHaveABound) {
  const auto kwargs = [](int count) {
    Json object = Json::object();
    for (int i = 0; i < count; ++i) object["k" + std::to_string(i)] = i;
    return with("\"chat_template_kwargs\":" + object.dump());
  };
  EXPECT_EQ(parse_chat_request(kwargs(1024)).chat_template_kwargs.size(), 1024U);
  EXPECT_THROW(parse_chat_request(kwargs(1025)), ApiError);
}

TEST(ChatRequest, TimeIsLinearInTheNumberOfKeys) {
  std::string body = with("");
  body.pop_back();
  for (int i = 0; i < 300000; ++i) body += ",\"k" + std::to_string(i) + "\":1";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_chat_request(body + "}").n, 1);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(ApiError, BodyHasTheShapeOfOpenAi) {
  EXPECT_EQ(dump(ApiError(404, "The model `x` does not exist.", "model").body()),
            R"({"error":{"message":"The model `x` does not exist.","type":"NotFoundError",)"
            R"("param":"model","code":404}})");
  EXPECT_EQ(dump(ApiError(400, "a").body()),
            R"({"error":{"message":"a","type":"BadRequestError","param":null,"code":400}})");
}

TEST(PythonRepr, IsPythons) {
  EXPECT_EQ(python_repr(parse_json(R"({"a":[1,2.5,null,true,"it's"]})", "test")),
            R"({'a': [1, 2.5, None, True, "it's"]})");
  EXPECT_EQ(python_repr(Json(std::string(1000, 'x')), 10), "'xxxxxxxxx...");
}

}  // namespace
}  // namespace quern::server
