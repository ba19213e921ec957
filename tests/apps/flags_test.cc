// Every flag of `vllm serve` that people use: known with its effect, known with a line that says
// what it maps to, or refused by name (tests/golden/apps/flags.json, one row a case). The model is
// missing, so that what is accepted ends with status 1 behind the command line.
#include <gtest/gtest.h>

#include <string>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "tests/apps/command.h"

namespace quern::cli {
namespace {

TEST(Flags, EveryRow) {
  const Json rows =
      parse_json(read_file(QUERN_SOURCE_DIR "/tests/golden/apps/flags.json", 1 << 20), "flags");
  ASSERT_GE(rows.size(), 120U);
  for (const Json& row : rows) {
    std::string words;
    for (const Json& word : row["words"]) words += " '" + word.get<std::string>() + "'";
    const CommandResult result = shell("$QUERN serve /nonexistent --port 0" + words);
    EXPECT_EQ(result.status, row["status"].get<int>()) << words << "\n" << result.output;
    EXPECT_NE(result.output.find(row.value("says", "")), std::string::npos) << words << "\n"
                                                                            << result.output;
  }
}

}  // namespace
}  // namespace quern::cli
