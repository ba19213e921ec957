#include "quern/base/tensor_view.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "quern/base/error.h"

namespace quern {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

TEST(DType, NamesAndSizesAreThoseOfSafetensors) {
  constexpr struct {
    const char* name;
    std::size_t bytes;
  } kTable[] = {{"BOOL", 1},    {"U8", 1},      {"I8", 1},      {"U16", 2}, {"I16", 2},  {"U32", 4},
                {"I32", 4},     {"U64", 8},     {"I64", 8},     {"F16", 2}, {"BF16", 2}, {"F32", 4},
                {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"F64", 8}};
  for (const auto& row : kTable) {
    const auto dtype = dtype_from_name(row.name);
    ASSERT_TRUE(dtype) << row.name;
    EXPECT_EQ(dtype_name(*dtype), row.name);
    EXPECT_EQ(dtype_bytes(*dtype), row.bytes) << row.name;
  }
  for (const char* name : {"", "bf16", "BF16 ", "F4"}) EXPECT_FALSE(dtype_from_name(name)) << name;
}

TEST(Shape, ElementsOrAnError) {
  EXPECT_EQ(num_elements({}), 1);
  EXPECT_EQ(num_elements({3, 0, 5}), 0);
  EXPECT_EQ(num_elements({3072, 6144}), 3072 * 6144);
  EXPECT_EQ(num_elements({kMax, 1}), kMax);
  EXPECT_THROW(num_elements({kMax, 2}), Error);
  EXPECT_THROW(num_elements({std::int64_t{1} << 32, std::int64_t{1} << 32}), Error);
  EXPECT_THROW(num_elements({-1, 4}), Error);
  EXPECT_EQ(shape_text({3072, 6144}), "[3072, 6144]");
  EXPECT_EQ(shape_text({}), "[]");
}

TEST(TensorView, BytesFollowShapeAndType) {
  const float values[] = {1, 2, 3, 4, 5, 6};
  const TensorView view{DType::kF32, {2, 3}, reinterpret_cast<const std::byte*>(values)};
  EXPECT_EQ(view.size(), 6);
  EXPECT_EQ(view.bytes(), 24U);
  EXPECT_EQ(view.raw().size(), 24U);
  EXPECT_EQ(view.as<float>()[5], 6);
}

}  // namespace
}  // namespace quern
