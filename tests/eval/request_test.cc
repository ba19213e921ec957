// Bodies, response forms and the grammar of arguments.
#include "quern/eval/request.h"

#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

TEST(Request, GenerationArguments) {
  const Json messages = Json::array({{{"role", "user"}, {"content", "q"}}});
  ModelArguments model;
  model.model = "m";
  const struct {
    const char* kwargs;
    const char* rest;  // of the body behind messages and model
  } rows[] = {
      {R"({"until": ["a", "b", "c", "d", "e"], "do_sample": true})",
       R"("max_tokens": 256, "temperature": 0, "stop": ["a", "b", "c", "d"], "seed": 1234})"},
      {R"({"until": "x", "max_gen_toks": 7, "temperature": 0.6, "top_p": 0.95})",
       R"("max_tokens": 7, "temperature": 0.6, "stop": ["x"], "seed": 1234, "top_p": 0.95})"},
      {R"({"max_tokens": 3, "max_gen_toks": 7})",
       R"("max_tokens": 3, "temperature": 0, "stop": [], "seed": 1234, "max_gen_toks": 7})"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(python_json(make_request(messages, parse_json(row.kwargs, "kwargs"), model)),
              std::string(R"({"messages": [{"role": "user", "content": "q"}], "model": "m", )") +
                  row.rest);
  }
  model.eos_string = "EOS";
  EXPECT_EQ(make_request(messages, {{"until", "x"}}, model)["stop"], (Json{"x", "EOS"}));
  model.num_concurrent = 2;
  EXPECT_EQ(make_request(messages, {{"until", "x"}}, model)["stop"], Json::array({"x"}));
  EXPECT_THROW(make_request(messages, {{"until", 3}}, model), Error);
}

TEST(Request, AnswersOfResponses) {
  const struct {
    const char* response;
    const char* answer;  // null: null content
  } rows[] = {
      {R"({"choices": [{"index": 0, "message": {"content": "42"}}]})", "42"},
      {R"({"choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]})",
       "a"},
      {R"({"choices": [{"index": 0, "message": {"content": null, "reasoning": "x"}}]})", nullptr},
      {R"({"choices": []})", ""},
      {R"({"choices": 3})", ""},
      {R"({"error": {"message": "no"}})", ""},
      {R"([])", ""},
      {R"({"choices": [{"message": {"content": "x"}}]})", ""},
      {R"({"choices": [{"index": 7, "message": {"content": "x"}}]})", ""},
      {R"({"choices": [{"index": 0, "message": {}}]})", ""},
      {R"({"choices": [{"index": 0, "message": {"content": 5}}]})", ""},
  };
  for (const auto& row : rows) {
    const auto answer = answer_of_response(parse_json(row.response, "response"));
    EXPECT_EQ(answer, row.answer == nullptr ? std::nullopt : std::optional<std::string>(row.answer))
        << row.response;
  }
  EXPECT_EQ(drop_thinking("a</t>b</t> \n c", "</t>"), "c");
  EXPECT_EQ(drop_thinking(" a", ""), " a");
}

TEST(Arguments, KeyValueGrammar) {
  EXPECT_EQ(
      parse_key_values({"a=1,b=1e3,c=True,d=x=y", "e=[1]", "f=0x", "g=-4"}, "--model_args").dump(),
      R"({"a":1,"b":1000.0,"c":true,"d":"x=y","e":[1],"f":"0x","g":-4.0})");
  EXPECT_EQ(parse_key_values({R"({"until": ["a,b"]})", "t=2", "t=3"}, "--gen_kwargs").dump(),
            R"({"until":["a,b"],"t":3})");
  EXPECT_THROW(parse_key_values({"abc"}, "--model_args"), UsageError);
  EXPECT_THROW(parse_key_values({"{'a': 1}"}, "--model_args"), UsageError);
}

TEST(Arguments, SeedsAndLimits) {
  EXPECT_EQ(parse_seeds("7"), (Seeds{7, 7, 7, 7}));
  EXPECT_EQ(parse_seeds("0,None,8"), (Seeds{0, std::nullopt, 8, 1234}));
  for (const char* bad : {"", "x", "1,2", "1,2,3,4,5", "1.5"})
    EXPECT_THROW(parse_seeds(bad), UsageError) << bad;
  EXPECT_EQ(limited_rows({}, 10), 10U);
  EXPECT_EQ(limited_rows(3.0, 10), 3U);
  EXPECT_EQ(limited_rows(0.25, 10), 3U);
  EXPECT_EQ(limited_rows(1e300, 10), 10U);
  EXPECT_THROW(limited_rows(0.0, 10), UsageError);
}

TEST(Arguments, ModelArgumentsAreChecked) {
  const auto parse = [](const char* text) {
    return parse_model_arguments(parse_key_values({text}, "a"), false);
  };
  EXPECT_EQ(parse("pretrained=p,base_url=http://x").model, "p");
  EXPECT_EQ(parse("model=m,pretrained=p,base_url=http://x,timeout=0.5").timeout_seconds, 0.5);
  for (const char* bad : {"base_url=http://x", "model=m", "model=m,base_url=u,num_concurent=3",
                          "model=m,base_url=u,max_retries=0", "model=m,base_url=u,timeout=no"}) {
    EXPECT_THROW(parse(bad), UsageError) << bad;
  }
}

}  // namespace
}  // namespace quern
