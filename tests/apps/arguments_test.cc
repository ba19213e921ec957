// Command lines before they are parsed: files, dotted pieces, short names.
#include "arguments.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "quern/base/error.h"
#include "tests/support/temp_directory.h"

namespace quern::cli {
namespace {

using Words = std::vector<std::string>;

TEST(Arguments, Expansion) {
  const test::TempDirectory directory;
  const std::string file = (directory.path() / "c.yaml").string();
  std::ofstream(file) << "port: 9000\nmax_model_len: 4k\nenable-prefix-caching: false\n"
                         "served-model-name: [a, b]\nenable_auto_tool_choice: true\nseed: null\n";
  const struct {
    const char* what;
    Words words;
    Words expected;
  } rows[] = {
      {"nothing to do", {"m", "--port", "1"}, {"m", "--port", "1"}},
      {"short names",
       {"-tp", "8", "-q=quark"},
       {"--tensor-parallel-size", "8", "--quantization=quark"}},
      {"dotted pieces",
       {"m", "--limit-mm-per-prompt.image", "4", "--limit_mm_per_prompt.video=0"},
       {"m", R"(--limit-mm-per-prompt={"image":4,"video":0})"}},
      {"deep, with text and a list",
       {"--override-generation-config.a.b", "x", "--override-generation-config.c+", "1",
        "--override-generation-config.c+=2"},
       {R"(--override-generation-config={"a":{"b":"x"},"c":[1,2]})"}},
      {"dotted beside the whole",
       {"--default-chat-template-kwargs", R"({"a":1})", "--default-chat-template-kwargs.b=2"},
       {R"(--default-chat-template-kwargs={"a":1,"b":2})"}},
      {"wrong JSON is left to the option",
       {"--override-generation-config", "{"},
       {"--override-generation-config={"}},
      {"a file, and what wins over it",
       {"m", "--config", file, "--no-enable-auto-tool-choice", "--port=1"},
       {"m", "--no-enable-auto-tool-choice", "--port=1", "--max-model-len=4k",
        "--no-enable-prefix-caching", "--served-model-name", "a", "b"}},
  };
  for (const auto& row : rows) EXPECT_EQ(expand_arguments(row.words), row.expected) << row.what;
}

TEST(Arguments, MistakesAreNamed) {
  const test::TempDirectory directory;
  const auto file = [&](const std::string& name, const std::string& text) {
    const std::string path = (directory.path() / name).string();
    std::ofstream(path) << text;
    return path;
  };
  const struct {
    Words words;
    const char* text;
  } rows[] = {
      {{"--config", "/nowhere.yaml"}, "/nowhere.yaml"},
      {{"--config"}, "a value is expected"},
      {{"--config", file("list.yaml", "[1]")}, "option names with values expected"},
      {{"--config=" + file("nested.yaml", "config: x.yaml")}, "cannot name another"},
      {{"--limit-mm-per-prompt."}, "a value is expected"},
      {{"--limit-mm-per-prompt.=1"}, "an empty name"},
      {{"--limit-mm-per-prompt.a=1", "--limit-mm-per-prompt.a.b=1"}, "lies below a value"},
      {{"--limit-mm-per-prompt.a=1", "--limit-mm-per-prompt.a+=1"}, "not a list"},
  };
  for (const auto& row : rows) {
    try {
      expand_arguments(row.words);
      ADD_FAILURE() << "accepted; expected: " << row.text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(row.text), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quern::cli
