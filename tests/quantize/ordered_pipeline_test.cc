// Order, bound and errors of run_ordered.
#include "quern/quantize/ordered_pipeline.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>

namespace quern {
namespace {

TEST(OrderedPipeline, TakesInOrderWithinTheSlots) {
  for (const std::size_t items : {0u, 1u, 5u, 1000u}) {
    for (const std::size_t slots : {1u, 2u, 7u}) {
      for (const std::size_t threads : {1u, 4u}) {
        std::vector<std::size_t> buffers(slots);
        std::atomic<std::size_t> open{0};
        std::atomic<bool> too_many{false};
        std::size_t expected = 0;
        run_ordered(
            items, slots, threads,
            [&](std::size_t item, std::size_t slot) {
              if (open.fetch_add(1) + 1 > slots) too_many = true;
              buffers[slot] = item * item;
            },
            [&](std::size_t item, std::size_t slot) {
              EXPECT_EQ(item, expected++);
              EXPECT_EQ(buffers[slot], item * item);
              open.fetch_sub(1);
            });
        EXPECT_EQ(expected, items);
        EXPECT_FALSE(too_many);
      }
    }
  }
}

TEST(OrderedPipeline, FirstErrorInOrderWins) {
  std::size_t taken = 0;
  std::string message;
  try {
    run_ordered(
        100, 8, 4,
        [](std::size_t item, std::size_t) {
          if (item >= 20) throw std::runtime_error(std::to_string(item));
        },
        [&](std::size_t, std::size_t) { ++taken; });
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  EXPECT_EQ(message, "20");
  EXPECT_EQ(taken, 20u);
}

TEST(OrderedPipeline, ErrorOfTakingStopsTheWorkers) {
  EXPECT_THROW(run_ordered(
                   1000, 4, 4, [](std::size_t, std::size_t) {},
                   [](std::size_t item, std::size_t) {
                     if (item == 10) throw std::runtime_error("full");
                   }),
               std::runtime_error);
}

}  // namespace
}  // namespace quern
