// POST /tokenize and /detokenize over sockets.
#include <gtest/gtest.h>

#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

class TokenizeApi : public ApiFixture {
 protected:
  Json json(const std::string& path, const std::string& body) {
    const auto [status, text] = ask(post(path, body));
    EXPECT_EQ(status, "HTTP/1.1 200") << text;
    return parse_json(text, path);
  }
};

TEST_F(TokenizeApi, ThereAndBack) {
  start();
  const Json tokens = json("/tokenize", R"({"prompt":"hi there","return_token_strs":true})");
  EXPECT_EQ(tokens["tokens"], Json(tokenizer_.encode("hi there")));
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(tokens["max_model_len"], 500);
  std::string joined;
  for (const Json& piece : tokens["token_strs"]) joined += piece.get<std::string>();
  EXPECT_EQ(joined, "hi there");
  EXPECT_EQ(json("/detokenize", R"({"tokens":)" + tokens["tokens"].dump() + "}")["prompt"],
            "hi there");
  EXPECT_EQ(json("/tokenize", R"({"prompt":""})")["count"], 0);
}

TEST_F(TokenizeApi, MessagesAreRenderedAsChatDoes) {
  start();
  const std::string messages = R"({"messages":[{"role":"user","content":"hi"}])";
  const Json with = json("/tokenize", messages + "}");
  const Json without = json("/tokenize", messages + R"(,"add_generation_prompt":false})");
  EXPECT_GT(with["count"], without["count"]);
  EXPECT_EQ(with["token_strs"], nullptr);
  EXPECT_EQ(generator_.submitted, 0);
}

TEST_F(TokenizeApi, Refusals) {
  start();
  const struct {
    const char* path;
    const char* body;
    const char* status;
  } rows[] = {
      {"/tokenize", "{}", "HTTP/1.1 400"},
      {"/tokenize", R"({"prompt":5})", "HTTP/1.1 400"},
      {"/tokenize", R"({"prompt":"a","model":"x"})", "HTTP/1.1 404"},
      {"/tokenize", R"({"messages":[{}]})", "HTTP/1.1 400"},
      {"/detokenize", "{}", "HTTP/1.1 400"},
      {"/detokenize", R"({"tokens":[-1]})", "HTTP/1.1 400"},
      {"/detokenize", R"({"tokens":["a"]})", "HTTP/1.1 400"},
      {"/detokenize", R"({"tokens":[1],"model":"x"})", "HTTP/1.1 404"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(ask(post(row.path, row.body)).first, row.status) << row.body;
  }
}

}  // namespace
}  // namespace quern::server
