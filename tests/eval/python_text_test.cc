// Python's text forms, against strings printed by CPython 3.11.
#include "quern/eval/python_text.h"

#include <gtest/gtest.h>

#include "quern/eval/sha256.h"

namespace quern {
namespace {

TEST(PythonText, JsonDumps) {
  const Json value = parse_json(
      R"({"a": [1, 2.0, "é\n\u007f😀\"\\"], "b": {}, "c": [], "d": null, "e": true})", "t");
  EXPECT_EQ(python_json(value),
            "{\"a\": [1, 2.0, \"\\u00e9\\n\\u007f\\ud83d\\ude00\\\"\\\\\"], \"b\": {}, \"c\": [], "
            "\"d\": null, \"e\": true}");
  EXPECT_EQ(python_json(value, {.ensure_ascii = false, .indent = 2}),
            "{\n  \"a\": [\n    1,\n    2.0,\n    \"é\\n\x7f😀\\\"\\\\\"\n  ],\n  \"b\": {},\n  "
            "\"c\": [],\n  \"d\": null,\n  \"e\": true\n}");
}

TEST(PythonText, FloatRepr) {
  const struct {
    double value;
    const char* text;
  } rows[] = {{0.0, "0.0"},
              {-0.0, "-0.0"},
              {1.0, "1.0"},
              {0.1, "0.1"},
              {1e16, "1e+16"},
              {1e15, "1000000000000000.0"},
              {123456.789, "123456.789"},
              {1e-4, "0.0001"},
              {1e-5, "1e-05"},
              {1.5e300, "1.5e+300"},
              {-2.5, "-2.5"},
              {5e-324, "5e-324"},
              {0.9393479909021987, "0.9393479909021987"}};
  for (const auto& row : rows) EXPECT_EQ(python_float(row.value), row.text);
}

TEST(PythonText, Repr) {
  EXPECT_EQ(python_repr(Json{{"model", "/a/b"}, {"n", 3}, {"x", 1.0}, {"t", true}, {"z", nullptr}}),
            "{'model': '/a/b', 'n': 3, 'x': 1.0, 't': True, 'z': None}");
  EXPECT_EQ(python_repr(Json("it's")), "\"it's\"");
  EXPECT_EQ(python_repr(Json("it's \"x\"\n\\")), "'it\\'s \"x\"\\n\\\\'");
}

TEST(PythonText, Strip) {
  const struct {
    const char* text;
    const char* stripped;
  } rows[] = {{"  a b \n", "a b"}, {"\u00a0\u3000x\u2028", "x"}, {"", ""},
              {" \t", ""},         {"\x1c\x1fz", "z"},           {"\u200bq", "\u200bq"}};
  for (const auto& row : rows) EXPECT_EQ(python_strip(row.text), row.stripped);
}

TEST(PythonText, Literals) {
  const struct {
    const char* text;
    const char* json;  // null: no literal
  } rows[] = {{"[1, 'a', \"b\\n\"]", R"([1,"a","b\n"])"},
              {"None", "null"},
              {"True", "true"},
              {"{'a': (1, 2)}", R"({"a":[1,2]})"},
              {"(1)", "1"},
              {"(1,)", "[1]"},
              {"-3", "-3"},
              {"1e3", "1000.0"},
              {"abc", nullptr},
              {"[1", nullptr},
              {"'a' b", nullptr},
              {"inf", nullptr},
              {"", nullptr},
              {"[[[[", nullptr}};
  for (const auto& row : rows) {
    const auto value = parse_python_literal(row.text);
    EXPECT_EQ(value ? value->dump() : "", row.json == nullptr ? "" : row.json) << row.text;
  }
  EXPECT_FALSE(parse_python_literal(std::string(100'000, '[')));
}

TEST(PythonText, Sha256) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace quern
