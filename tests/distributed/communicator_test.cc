// One process alone; sizes are checked and traffic is counted for every implementation alike.
#include "quern/distributed/communicator.h"

#include <gtest/gtest.h>

#include <mutex>
#include <vector>

#include "tests/support/thread_communicator.h"

namespace quern {
namespace {

using Bytes = std::vector<std::byte>;

TEST(Communicator, OneProcessGetsItsOwn) {
  const auto alone = make_single_communicator();
  EXPECT_EQ(alone->rank(), 0);
  EXPECT_EQ(alone->size(), 1);
  const Bytes mine{std::byte{1}, std::byte{2}};
  const std::vector<std::size_t> counts{2};
  Bytes all(2);
  alone->all_gather(mine, all);
  EXPECT_EQ(all, mine);
  all.assign(2, std::byte{0});
  alone->all_gather_v(mine, counts, all);
  EXPECT_EQ(all, mine);
  all.assign(2, std::byte{0});
  alone->gather(0, mine, all);
  EXPECT_EQ(all, mine);
  all.assign(2, std::byte{0});
  alone->all_to_all_v(mine, counts, all, counts);
  EXPECT_EQ(all, mine);
  alone->broadcast(0, all);
  std::int64_t value = 5;
  alone->all_reduce(Reduction::kSum, {&value, 1});
  EXPECT_EQ(value, 5);
  alone->barrier();
  EXPECT_EQ(alone->traffic(), (Traffic{7, 2 + 2 + 0 + 0 + 2 + 8, 0}));
  EXPECT_DEATH(alone->all_gather(mine, std::span(all).first(1)), "all.size");
  EXPECT_DEATH(alone->broadcast(1, all), "root");
}

TEST(Communicator, TrafficIsCounted) {
  std::mutex mutex;
  test::ThreadRanks(3).run([&](Communicator& comm) {
    Bytes mine(10);
    Bytes all(30);
    comm.all_gather(mine, all);
    EXPECT_EQ(comm.traffic(), (Traffic{1, 10, 20}));
    comm.gather(1, mine, all);
    const std::lock_guard lock(mutex);
    EXPECT_EQ(comm.traffic().sent_bytes, comm.rank() == 1 ? 10U : 20U);
    EXPECT_EQ(comm.traffic().received_bytes, comm.rank() == 1 ? 40U : 20U);
  });
}

TEST(Communicator, RanksAgreeOnEqualValuesOnly) {
  test::ThreadRanks(3).run([](Communicator& comm) {
    for (const std::int64_t value : {0L, -1L, 5L, INT64_MAX, INT64_MIN}) {
      EXPECT_TRUE(comm.agree(value)) << value;
      EXPECT_FALSE(comm.agree(comm.rank() == 1 ? value ^ 4 : value)) << value;
    }
  });
}

}  // namespace
}  // namespace quern
