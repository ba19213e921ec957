#include "quern/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "quern/base/error.h"
#include "tests/support/error_message.h"

namespace quern {
namespace {

using test::error_message;
using ::testing::HasSubstr;

TEST(ParseJson, KeepsTheOrderOfKeys) {
  const std::string text = R"({"z":1,"a":[true,null,-2,1.5,"é\u0000"],"m":{}})";
  EXPECT_EQ(parse_json(text, "x").dump(), text);
}

TEST(ParseJson, RefusesByNameOfTheSource) {
  const struct {
    std::string text;
    const char* reason;
  } kTable[] = {
      {"", "invalid JSON"},
      {"{", "invalid JSON"},
      {"{} x", "invalid JSON"},
      {"[1,]", "invalid JSON"},
      {"{\"a\":1,}", "invalid JSON"},
      {"NaN", "invalid JSON"},
      {"\"\xff\"", "invalid JSON"},
      {"\"\\ud800\"", "invalid JSON"},
      {R"({"a":1,"a":2})", "duplicate JSON key 'a'"},
      {R"({"b":{"a":1,"a":2}})", "duplicate JSON key 'a'"},
      {std::string("{}\0x", 4), "invalid JSON"},
      {std::string("1\0", 2), "invalid JSON"},
      {std::string("[1\0]", 4), "invalid JSON"},
  };
  for (const auto& row : kTable) {
    const std::string message = error_message([&] { parse_json(row.text, "config.json"); });
    EXPECT_THAT(message, HasSubstr("config.json: ")) << row.text;
    EXPECT_THAT(message, HasSubstr(row.reason)) << row.text;
  }
}

TEST(ParseJson, LastDuplicateWinsWhenAllowed) {
  const Json json = parse_json(R"({"a":1,"b":2,"a":[3]})", "x", {.reject_duplicate_keys = false});
  EXPECT_EQ(json.dump(), R"({"a":[3],"b":2})");
}

TEST(ParseJson, DepthIsBounded) {
  const auto nested = [](std::size_t levels) {
    return std::string(levels, '[') + std::string(levels, ']');
  };
  EXPECT_NO_THROW(parse_json(nested(64), "x"));
  EXPECT_THAT(error_message([&] { parse_json(nested(65), "x"); }), HasSubstr("deeper than 64"));
  EXPECT_THROW(parse_json(std::string(1'000'000, '['), "x"), Error);
}

}  // namespace
}  // namespace quern
