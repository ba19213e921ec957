// Errors over HTTP: a table of requests and what vLLM answers (tests/golden/server/errors.json, one
// row a case: the message is a part of the answer's, or the whole one where the row says so;
// answers of another form stand in the row as they are).
#include <gtest/gtest.h>

#include <string>

#include "tests/server/table_rig.h"

namespace quern::server {
namespace {

void expect_error(const Json& row, const Json& answer) {
  const Json error = answer.is_object() ? answer.value("error", Json()) : Json();
  ASSERT_TRUE(error.is_object()) << answer;
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

TEST(ErrorTable, EveryRow) {
  const Json rows = read_table("errors.json");
  ASSERT_GE(rows.size(), 80U);
  for (const auto& [server, group] : by_server(rows)) {
    TableRig rig(Json::parse(server));
    for (const Json& row : group) {
      SCOPED_TRACE(row["what"].get<std::string>());
      const auto [status, body] = rig.send(row);
      EXPECT_EQ(status, row["status"].get<int>());
      const Json answer = Json::parse(body, nullptr, false);
      if (!row.contains("answer")) {
        expect_error(row, answer);
      } else if (row["answer"].is_null()) {
        EXPECT_EQ(body, "");
      } else {
        EXPECT_EQ(answer, row["answer"]);
      }
    }
    // Nothing of it reached the engine but what is there to fail in it.
    EXPECT_EQ(rig.generator().submitted, server.find("fails") == std::string::npos ? 0 : 1);
  }
}

}  // namespace
}  // namespace quern::server
