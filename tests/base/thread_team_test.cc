#include "quern/base/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace quern {
namespace {

TEST(ThreadTeam, EachMemberRunsOnce) {
  for (const int size : {1, 2, 5}) {
    ThreadTeam team(size);
    ASSERT_EQ(team.size(), size);
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(size));
    for (int region = 0; region < 200; ++region) {
      team.run([&](int thread) { ++runs[static_cast<std::size_t>(thread)]; });
    }
    for (const auto& count : runs) EXPECT_EQ(count, 200);
  }
}

TEST(ThreadTeam, PiecesCoverTheRangeOnce) {
  ThreadTeam team(3);
  for (const std::int64_t count : {0, 1, 7, 64, 1000}) {
    for (const std::int64_t grain : {1, 3, 64, 2000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      team.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
        EXPECT_LT(begin, end);
        EXPECT_LE(end - begin, grain);
        EXPECT_LT(thread, 3);
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (const auto& times : seen) EXPECT_EQ(times, 1) << count << " by " << grain;
    }
  }
}

// What members wrote is visible to the caller, and what the caller wrote to the next region.
TEST(ThreadTeam, RegionsAreOrdered) {
  ThreadTeam team(4);
  std::vector<int> values(4, 0);
  for (int round = 1; round <= 500; ++round) {
    team.run([&](int thread) { values[static_cast<std::size_t>(thread)] += round; });
    for (int& value : values) {
      ASSERT_EQ(value, round);
      value = 0;
    }
  }
}

// Workers park when nothing comes, and wake for the next region.
TEST(ThreadTeam, WakesAfterAPause) {
  ThreadTeam team(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> runs = 0;
    team.run([&](int) { ++runs; });
    EXPECT_EQ(runs, 2);
  }
}

TEST(ThreadTeam, ZeroMeansOnePerCore) { EXPECT_GE(ThreadTeam(0).size(), 1); }

}  // namespace
}  // namespace quern
