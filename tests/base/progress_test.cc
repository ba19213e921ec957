#include "quern/base/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

namespace quern {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST(Progress, Lines) {
  const auto line = Progress::line;
  EXPECT_EQ(line("x", 50, 200, 10, ProgressUnit::kItems, "note"),
            "x  25% [######..................] 50/200 [00:10<00:30, 5.00/s] note");
  EXPECT_EQ(line("x", 200, 200, 3725, ProgressUnit::kItems, ""),
            "x 100% [########################] 200/200 [1:02:05, 0.05/s]");
  EXPECT_EQ(line("x", 1'500'000, 0, 1, ProgressUnit::kBytes, ""), "x 1.50 MB [00:01, 1.50 MB/s]");
  // Nothing done yet: no rate to divide by.
  EXPECT_THAT(line("x", 0, 10, 0, ProgressUnit::kItems, ""), HasSubstr("0/10 [00:00, 0.00/s]"));
  // More done than announced stays a line.
  EXPECT_THAT(line("x", 20, 10, 1, ProgressUnit::kItems, ""), HasSubstr("100%"));
}

TEST(Progress, PlainLinesWhereThereIsNoTerminal) {
  std::FILE* out = std::tmpfile();
  ASSERT_NE(out, nullptr);
  {
    Progress progress("work", 400, ProgressUnit::kItems, out);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 100; ++k) progress.add(1);
      });
    }
    for (std::thread& thread : threads) thread.join();
    progress.finish();
  }
  std::string text(4096, '\0');
  std::rewind(out);
  text.resize(std::fread(text.data(), 1, text.size(), out));
  std::fclose(out);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("400/400"));
  EXPECT_THAT(text, EndsWith("\n"));
}

TEST(BytesText, DecimalUnits) {
  EXPECT_EQ(bytes_text(12), "12 B");
  EXPECT_EQ(bytes_text(1500), "1.50 kB");
  EXPECT_EQ(bytes_text(242'659'360'768.0), "242.66 GB");
}

}  // namespace
}  // namespace quern
