// The machine probes: every byte is read once, rates are plausible.
#include "quern/kernels/machine_probe.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace quern::kernels {
namespace {

TEST(MachineProbe, ReadsEveryByte) {
  ThreadTeam team(2);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{5}, std::size_t{4096 + 8 + 3}, (std::size_t{3} << 20) + 16}) {
    std::vector<std::byte> bytes(size);
    std::uint64_t expected = 0;
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 37 + 11);
    std::size_t i = 0;
    for (; i + 8 <= size; i += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, 8);
      expected += word;
    }
    for (; i < size; ++i) expected += static_cast<std::uint64_t>(bytes[i]);
    EXPECT_EQ(read_all(team, bytes), expected) << size;
  }
}

// Between one a microsecond and a million a nanosecond: anything else is a broken loop.
TEST(MachineProbe, RatesArePlausible) {
  ThreadTeam team(2);
  for (const double rate :
       {int8_multiply_adds_per_second(team, 0.01), float_multiply_adds_per_second(team, 0.01)}) {
    EXPECT_GT(rate, 1e6);
    EXPECT_LT(rate, 1e15);
  }
}

}  // namespace
}  // namespace quern::kernels
