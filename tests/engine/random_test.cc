#include "quern/engine/random.h"

#include <gtest/gtest.h>

namespace quern::engine {
namespace {

// Random123, tests/kat_vectors, "philox4x32 10".
TEST(Philox, KnownAnswers) {
  const struct {
    std::array<std::uint32_t, 4> counter;
    std::array<std::uint32_t, 2> key;
    std::array<std::uint32_t, 4> expected;
  } rows[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& row : rows) EXPECT_EQ(philox4x32(row.counter, row.key), row.expected);
}

TEST(Uniform, DependsOnEveryPartOfTheKeyAndStaysBelowOne) {
  const double base = uniform({1, 2}, 3);
  EXPECT_NE(base, uniform({2, 2}, 3));
  EXPECT_NE(base, uniform({1, 3}, 3));
  EXPECT_NE(base, uniform({1, 2}, 4));
  EXPECT_NE(base, uniform({1, 2}, 3 + (std::uint64_t{1} << 32)));
  EXPECT_EQ(base, uniform({1, 2}, 3));
  for (std::uint64_t i = 0; i < 10000; ++i) {
    const double value = uniform({7, 0}, i);
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
  }
}

}  // namespace
}  // namespace quern::engine
