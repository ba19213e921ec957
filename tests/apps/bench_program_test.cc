// quern bench as a user runs it. No test depends on how long something takes.
#include <gtest/gtest.h>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "tests/apps/command.h"
#include "tests/bench/small_checkpoint.h"
#include "tests/support/temp_directory.h"

namespace quern::cli {
namespace {

TEST(BenchProgram, PrintsARowForEachTest) {
  const test::TempDirectory directory;
  const std::string json = (directory / "results.json").string();
  const CommandResult result = shell(
      "$QUERN bench $ROOT/models/m3-tiny -p 16,48 -n 2 --batch-sizes 1,3 --contexts 0,1k "
      "-t 1 -r 2 --json " +
      json);
  EXPECT_EQ(result.status, 0) << result.output;
  std::size_t rows = 0;
  for (const char* test :
       {"| pp16 ", "| pp48 ", "| tg2 ", "| tg2 b3 ", "| tg2 @ d1000 ", "| tg2 @ d1000 b3 "}) {
    EXPECT_NE(result.output.find(test), std::string::npos) << test << "\n" << result.output;
    ++rows;
  }
  EXPECT_NE(result.output.find("machine, 1 threads: "), std::string::npos) << result.output;
  const Json list = parse_json(read_file(json, 1 << 20), json);
  ASSERT_EQ(list.size(), rows);
  for (const Json& row : list) {
    EXPECT_EQ(row["samples_ns"].size(), 2U);
    EXPECT_GT(row["median_ts"].get<double>(), 0);
    EXPECT_GT(row["bound_ts"].get<double>(), 0);
    EXPECT_GT(row["cost"]["bytes"].get<double>(), 0);
  }
}

TEST(BenchProgram, ProfileShowsOperations) {
  const CommandResult result =
      shell("$QUERN bench $ROOT/models/m3-tiny -p 0 -n 2 -r 1 -t 1 --profile");
  EXPECT_EQ(result.status, 0) << result.output;
  for (const char* operation : {"q, k, v", "select blocks", "experts", "logits", "between them"})
    EXPECT_NE(result.output.find(operation), std::string::npos) << operation << result.output;
}

TEST(BenchProgram, MadeCheckpointGeneratesAndIsMeasured) {
  const test::TempDirectory directory;
  const std::string model = (directory / "m").string();
  bench::write_random_checkpoint(model, bench::small_options());
  const CommandResult answer =
      shell("$QUERN generate " + model + " -p hello --max-tokens 8 --seed 1 2>/dev/null");
  EXPECT_EQ(answer.status, 0) << answer.output;
  EXPECT_GT(answer.output.size(), 1U);
  const CommandResult speed = shell("$QUERN bench " + model + " -p 8 -n 1 -r 1 -t 1");
  EXPECT_EQ(speed.status, 0) << speed.output;
  EXPECT_NE(speed.output.find("| minimax_m3_vl MXFP4 "), std::string::npos) << speed.output;
}

TEST(BenchProgram, WrongUsageIsExplained) {
  struct Row {
    const char* arguments;
    int status;
    const char* says;
  };
  for (const Row& row : {
           Row{"", 2, "which model?"},
           Row{"$ROOT/models/m3-tiny --make-checkpoint x", 2, "with a command of its own"},
           Row{"$ROOT/models/m3-tiny -p 0 -n 0", 2, "nothing to measure"},
           Row{"$ROOT/models/m3-tiny -p 12,x", 2, "'x' is not a count"},
           Row{"$ROOT/models/m3-tiny --batch-sizes 0", 2, "must be at least 1, got 0"},
           Row{"$ROOT/models/m3-tiny --batch-size 2", 2, "did you mean '--batch-sizes'?"},
           Row{"$ROOT/models/m3-tiny -p 0 --contexts 5000", 1, "max_position_embeddings 4096"},
           Row{"--make-checkpoint $(mktemp -d) --vocab-size 10", 1, "vocab_size must be from 512"},
           Row{"--make-checkpoint $ROOT/models/m3-tiny", 1, "holds a checkpoint already"},
       }) {
    const CommandResult result = shell(std::string("$QUERN bench ") + row.arguments);
    EXPECT_EQ(result.status, row.status) << row.arguments << "\n" << result.output;
    EXPECT_NE(result.output.find(row.says), std::string::npos) << result.output;
  }
}

}  // namespace
}  // namespace quern::cli
