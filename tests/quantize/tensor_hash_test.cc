// Hashes of tensors that are written in order, out of order, and not at all.
#include "quern/quantize/tensor_hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace quern {
namespace {

TEST(TensorHash, IsTheHashOfTheWhole) {
  std::vector<std::byte> data(3 << 20);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * i >> 7);
  const std::uint64_t expected = XXH3_64bits(data.data(), data.size());
  int reads = 0;
  const auto read = [&](std::uint64_t offset, std::span<std::byte> out) {
    ++reads;
    std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
  };
  constexpr std::size_t kHalf = (3 << 20) / 2 + 5;
  const std::span<const std::byte> all(data);
  TensorHash in_order;
  in_order.add(0, all.first(kHalf));
  in_order.add(kHalf, {});
  in_order.add(kHalf, all.subspan(kHalf));
  EXPECT_EQ(in_order.finish(data.size(), read), expected);
  EXPECT_EQ(reads, 0);
  TensorHash backwards;
  backwards.add(kHalf, all.subspan(kHalf));
  backwards.add(0, all.first(kHalf));
  EXPECT_EQ(backwards.finish(data.size(), read), expected);
  EXPECT_EQ(reads, 3);
  EXPECT_EQ(TensorHash().finish(0, read), XXH3_64bits(nullptr, 0));
}

}  // namespace
}  // namespace quern
