// The table, the profile and the JSON of made-up results.
#include "quern/bench/report.h"

#include <gtest/gtest.h>

namespace quern::bench {
namespace {

BenchRow made_up() {
  BenchRow row;
  row.model = {"minimax_m3_vl MXFP4", 3'652'000'000, 6'900'000'000};
  row.threads = 2;
  row.result.test = {.decode_tokens = 32, .context = 4096, .batch_size = 8};
  row.result.seconds = {16, 8, 10};  // 16, 32, 25.6 tokens a second
  row.result.bounds = {4, 4, 5};
  row.result.steps = 32;
  row.result.cost = {64e9, 32e9, 16e9};
  row.result.rates = {16e9, 400e9, 100e9};
  return row;
}

TEST(BenchReport, TableHasLlamaBenchsColumns) {
  EXPECT_EQ(
      table_header(),
      "| model                |       size |    params | threads | test               |         "
      "       t/s |     bound |  share |\n"
      "| -------------------- | ---------- | --------- | ------- | ------------------ | ------"
      "------------ | --------- | ------ |\n");
  EXPECT_EQ(table_row(made_up()),
            "| minimax_m3_vl MXFP4  |   3.40 GiB |    6.90 B |       2 | tg32 @ d4096 b8    |      "
            "25.60 +- 8.00 |     64.00 |   0.50 |\n");
  EXPECT_EQ(machine_lines({made_up()}),
            "machine, 2 threads: 16.0 GB/s read, 400 GMAC/s 8-bit, 100 GMAC/s float\n");
}

TEST(BenchReport, JsonHasEveryFigure) {
  const Json json = results_json({made_up()});
  ASSERT_EQ(json.size(), 1U);
  const Json& row = json[0];
  EXPECT_EQ(row["n_gen"], 32);
  EXPECT_EQ(row["n_depth"], 4096);
  EXPECT_EQ(row["batch_size"], 8);
  EXPECT_EQ(row["clock"], "wall");
  EXPECT_EQ(row["median_ts"], 25.6);
  EXPECT_EQ(row["bound_ts"], 64.0);
  EXPECT_EQ(row["share_of_bound"], 0.5);
  EXPECT_EQ(row["cost"]["bytes"], 64e9);
  EXPECT_EQ(row["machine"]["read_bytes_per_second"], 16e9);
  EXPECT_EQ(row["samples_ts"], Json::array({16.0, 32.0, 25.6}));
  EXPECT_FALSE(row.contains("profile"));
}

TEST(BenchReport, ProfileNamesOperationsThatRan) {
  BenchRow row = made_up();
  OperationProfile& moe = row.result.profile[static_cast<std::size_t>(Operation::kMoe)];
  moe = {{3 * 32 * 3, 24}, 8, 4, {32e9, 32e9, 0}};
  const std::string text = profile_table(row);
  EXPECT_NE(text.find("tg32 @ d4096 b8, 2 threads: a step of 354.167 ms (mean)\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("experts                  3     250.000    70.6    1000.00      1.000     "
                      "125.000   0.50\n"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("dense MLP"), std::string::npos) << text;
  EXPECT_NE(text.find("between them"), std::string::npos) << text;
  EXPECT_EQ(results_json({row})[0]["profile"].size(), kNumOperations);
}

}  // namespace
}  // namespace quern::bench
