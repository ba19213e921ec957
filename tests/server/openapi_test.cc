// /openapi.json describes the routes that there are, and bodies that they take.
#include "quern/server/openapi.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

class OpenApi : public ApiFixture {};

TEST_F(OpenApi, DescribesWhatAnswers) {
  start();
  const auto [status, text] = ask(get("/openapi.json"));
  ASSERT_EQ(status, "HTTP/1.1 200");
  const Json description = parse_json(text, "openapi.json");
  EXPECT_EQ(description["openapi"], "3.1.0");
  int described = 0;
  for (const auto& [path, methods] : description["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      if (method == "head") continue;
      ++described;
      std::string place = path;
      const std::size_t id = place.find("{id}");
      if (id != std::string::npos) place.replace(id, 4, "x");
      const auto answer = method == "get" ? ask(get(place)) : ask(post(place, "{}"));
      EXPECT_EQ(answer.second.find("Method Not Allowed"), std::string::npos) << place;
      EXPECT_EQ(answer.second.find(R"({"detail":"Not Found"})"), std::string::npos) << place;
      EXPECT_TRUE(operation["responses"].contains(answer.first.substr(9))) << answer.first;
      // What the schema requires is what an empty body lacks.
      if (operation.contains("requestBody")) {
        EXPECT_EQ(answer.first, "HTTP/1.1 400") << place;
      }
    }
  }
  EXPECT_GE(described, 16);
}

TEST_F(OpenApi, FieldsAreThoseThatAreRead) {
  const Json chat = chat_schema()["properties"];
  for (const char* name : {"temperature", "messages", "tools", "n", "logprobs", "stop", "seed"}) {
    EXPECT_TRUE(chat.contains(name)) << name;
  }
  EXPECT_EQ(chat["n"]["type"], Json::array({"integer", "null"}));
  EXPECT_EQ(completion_schema()["required"], Json::array({"prompt"}));
}

TEST_F(OpenApi, CanBeSwitchedOff) {
  options_.disable_docs = true;
  start();
  EXPECT_EQ(ask(get("/openapi.json")).first, "HTTP/1.1 404");
}

}  // namespace
}  // namespace quern::server
