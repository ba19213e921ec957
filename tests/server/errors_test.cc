// Errors over HTTP: a table of requests and what vLLM answers (tests/golden/server/errors.json, one
// row a case: the message is a part of the answer's, or the whole one where the row says so).
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "tests/server/api_fixture.h"

namespace quern::server {
namespace {

class ErrorTable : public ApiFixture {};

TEST_F(ErrorTable, EveryRow) {
  std::ifstream file(QUERN_SOURCE_DIR "/tests/golden/server/errors.json");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const Json rows = parse_json(text, "errors.json");
  ASSERT_GE(rows.size(), 40U);
  start();
  for (const Json& row : rows) {
    SCOPED_TRACE(row["what"].get<std::string>());
    const std::string body =
        row.contains("raw") ? row["raw"].get<std::string>() : row["body"].dump();
    const auto [status, answer] = ask(post(row["path"].get<std::string>(), body));
    EXPECT_EQ(status, "HTTP/1.1 " + row["status"].dump());
    const Json error = Json::parse(answer, nullptr, false)["error"];
    const auto message = error["message"].get<std::string>();
    const auto expected = row["message"].get<std::string>();
    if (row.contains("whole")) {
      EXPECT_EQ(message, expected);
    } else {
      EXPECT_NE(message.find(expected), std::string::npos) << message;
    }
    EXPECT_EQ(error["type"], row["type"]);
    EXPECT_EQ(error["param"], row["param"]);
    EXPECT_EQ(error["code"], row["status"]);
    EXPECT_EQ(error.size(), 4U);
  }
  EXPECT_EQ(generator_.submitted, 0);
}

}  // namespace
}  // namespace quern::server
