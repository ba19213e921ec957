// The commands of the user guide are run as they stand: the ```sh blocks of a page, one script a
// page, in a directory that holds nothing but links to models/ and data/. Must never name a page
// that has no commands.
#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "quern/base/file.h"
#include "tests/apps/command.h"
#include "tests/support/temp_directory.h"

namespace quern::cli {
namespace {

std::string script_of(const std::string& page) {
  std::istringstream lines(page);
  std::string script =
      "set -euo pipefail\n"
      "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      inside = line == "```sh";
    } else if (inside) {
      script += line + "\n";
    }
  }
  return script;
}

class Docs : public ::testing::TestWithParam<const char*> {};

TEST_P(Docs, CommandsOfThePageRun) {
  const std::string page =
      read_file(std::string(QUERN_SOURCE_DIR "/docs/") + GetParam() + ".md", 1 << 20);
  const std::string script = script_of(page);
  ASSERT_NE(script.find("quern "), std::string::npos) << "the page has no command";
  const test::TempDirectory directory;
  write_file(directory / "script", script);
  const CommandResult result =
      shell("cd '" + directory.path().string() +
            "' && ln -s \"$ROOT/models\" \"$ROOT/data\" . && "
            "PATH=\"$(dirname \"$QUERN\"):$PATH\" timeout 300 bash -x script");
  EXPECT_EQ(result.status, 0) << result.output;
}

INSTANTIATE_TEST_SUITE_P(Page, Docs,
                         ::testing::Values("quantize", "serve", "evaluate", "scaling", "bench"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quern::cli
