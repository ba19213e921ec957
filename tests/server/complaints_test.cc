// What users suffer from elsewhere: a table of complaints about this layer, each with what has to
// come out here (tests/golden/server/complaints.json, one row a case; plain and streamed).
#include <gtest/gtest.h>

#include <string>

#include "tests/server/table_rig.h"

namespace quern::server {
namespace {

struct Message {
  std::string reasoning, content, finish_reason;
  Json calls = Json::array();  // [name, arguments]
  Json stop_reason;
  int argument_deltas = 0;

  void add_call(std::size_t index, const Json& function) {
    if (calls.size() <= index) calls.push_back({"", ""});
    Json& call = calls[index];
    if (function.contains("name")) call[0] = function["name"];
    call[1] = call[1].get<std::string>() + function["arguments"].get<std::string>();
  }
};

void add_text(const Json& from, const char* key, std::string& to) {
  if (from.contains(key) && from[key].is_string()) to += from[key].get<std::string>();
}

Message of_body(const std::string& body) {
  const Json choice = parse_json(body, "answer")["choices"][0];
  Message message;
  add_text(choice["message"], "reasoning", message.reasoning);
  add_text(choice["message"], "content", message.content);
  std::size_t index = 0;
  for (const Json& call : choice["message"].value("tool_calls", Json::array())) {
    message.add_call(index++, call["function"]);
  }
  message.finish_reason = choice["finish_reason"];
  message.stop_reason = choice["stop_reason"];
  return message;
}

Message of_stream(const std::string& body) {
  const std::string text = TableRig::unchunk(body);
  EXPECT_TRUE(text.ends_with("data: [DONE]\n\n")) << text;
  Message message;
  for (std::size_t at = text.find("data: {"); at != std::string::npos;
       at = text.find("data: {", at + 1)) {
    const Json event = parse_json(text.substr(at + 6, text.find("\n\n", at) - at - 6), "event");
    const Json& choice = event["choices"][0];
    const Json& delta = choice["delta"];
    add_text(delta, "reasoning", message.reasoning);
    add_text(delta, "content", message.content);
    for (const Json& call : delta.value("tool_calls", Json::array())) {
      message.add_call(call["index"].get<std::size_t>(), call["function"]);
      message.argument_deltas += call["function"]["arguments"] != "" ? 1 : 0;
    }
    add_text(choice, "finish_reason", message.finish_reason);
    if (choice.contains("stop_reason")) message.stop_reason = choice["stop_reason"];
  }
  return message;
}

void expect_message(const Json& row, const Message& message) {
  EXPECT_EQ(message.reasoning, row["reasoning"].is_null() ? "" : row["reasoning"]);
  EXPECT_EQ(message.content, row["content"].is_null() ? "" : row["content"]);
  const Json calls = row.value("calls", Json::array());
  ASSERT_EQ(message.calls.size(), calls.size());
  for (std::size_t i = 0; i < calls.size(); ++i) {
    EXPECT_EQ(message.calls[i][0], calls[i][0]);
    EXPECT_EQ(Json::parse(message.calls[i][1].get<std::string>()), calls[i][1]);
  }
  EXPECT_EQ(message.finish_reason,
            row.value("finish_reason", calls.empty() ? "stop" : "tool_calls"));
  EXPECT_EQ(message.stop_reason, row.value("stop_reason", Json()));
}

Json chat(const Json& request) {
  Json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
  body.update(request);
  return {{"path", "/v1/chat/completions"}, {"body", std::move(body)}};
}

void check(TableRig& rig, const Json& row) {
  if (row.contains("capabilities")) {
    const auto [status, body] = rig.send({{"path", row["path"]}, {"method", "GET"}});
    EXPECT_EQ(status, 200);
    const Json found = parse_json(body, "models")["data"][0]["capabilities"];
    for (const auto& [name, value] : row["capabilities"].items()) {
      EXPECT_EQ(found.value(name, Json()), value) << name;
    }
    return;
  }
  ScriptedGenerator& generator = rig.generator();
  generator.pieces = row["pieces"].get<std::vector<std::string>>();
  generator.pause = std::chrono::milliseconds(row.value("pause_ms", 0));
  generator.end = row.value("ends", "stop") == "length" ? engine::FinishReason::kLength
                                                        : engine::FinishReason::kStop;
  if (row.contains("before")) {
    EXPECT_EQ(rig.send(chat(row["before"])).first, row["before_status"].get<int>());
  }
  Json request = row["request"];
  const auto [status, body] = rig.send(chat(request));
  ASSERT_EQ(status, row.value("status", 200)) << body;
  if (status != 200) {
    EXPECT_NE(body.find(row["error"].get<std::string>()), std::string::npos) << body;
    return;
  }
  expect_message(row, of_body(body));
  request["stream"] = true;
  const Message streamed = of_stream(rig.send(chat(request)).second);
  expect_message(row, streamed);
  EXPECT_GE(streamed.argument_deltas, row.value("argument_deltas", 0));
}

TEST(ComplaintTable, EveryRow) {
  const Json rows = read_table("complaints.json");
  ASSERT_GE(rows.size(), 20U);
  for (const auto& [server, group] : by_server(rows)) {
    TableRig rig(Json::parse(server));
    for (const Json& row : group) {
      SCOPED_TRACE(row["complaint"].get<std::string>() + " (" + row["link"].get<std::string>() +
                   ")");
      check(rig, row);
    }
  }
}

}  // namespace
}  // namespace quern::server
