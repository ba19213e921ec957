// What the encoders of weight formats share.
// Must never be included outside this folder.
// Proved by tests/quantize/quark_schemes_test.cc.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <span>

#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"
#include "quern/numerics/quantize_rows.h"
#include "quern/quantize/weight_encoder.h"

namespace quern {

template <typename T>
std::span<const T> elements(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

template <typename T>
std::span<T> elements(std::span<std::byte> bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

inline QuotientType quotient_type(DType dtype) {
  return dtype == DType::kBF16  ? QuotientType::kBF16
         : dtype == DType::kF16 ? QuotientType::kF16
                                : QuotientType::kF32;
}

// The value as a tensor of `dtype` holds it.
float round_to(DType dtype, float value);

inline std::uint64_t columns_of(const WeightSource& source) {
  return static_cast<std::uint64_t>(source.shape().back());
}
inline std::uint64_t rows_of(const WeightSource& source) {
  return source.elements() / columns_of(source);
}

// A scale of zero becomes the machine epsilon of binary32, as in Quark.
inline constexpr float kScaleEpsilon = 0x1p-23f;

// A tensor's range, gathered by scan() from several threads.
class TensorRange {
 public:
  void add(const MinMax& part);
  MinMax get() const;

 private:
  mutable std::mutex mutex_;
  bool empty_ = true;
  MinMax range_;
};

// Quark's scale of FP8: largest magnitude / 448 in binary32.
float fp8_scale(const MinMax& range);

// Quark's scale and zero point of integers, computed in the dtype of the weight.
IntegerGrid integer_grid(const MinMax& range, DType dtype, bool is_signed, int bits, float& scale);

// What integers of a grid can hold: its values, and the least and largest of them.
inline double grid_value(const IntegerGrid& grid, float scale, int code) {
  return static_cast<double>(code - grid.zero_point) * scale;
}

inline double peak_of(const MinMax& range) {
  return std::max(std::abs(double{range.min}), std::abs(double{range.max}));
}

// Eight codes of `columns` to an I32, the last one padded with zeros. `order[i]` is the code in
// nibble i.
inline constexpr std::array<std::uint8_t, 8> kPlainOrder = {0, 1, 2, 3, 4, 5, 6, 7};
inline constexpr std::array<std::uint8_t, 8> kReorder = {0, 2, 4, 6, 1, 3, 5, 7};
void pack_int4_row(std::span<const std::int8_t> codes, const std::array<std::uint8_t, 8>& order,
                   std::span<std::uint32_t> packed);
// The inverse; codes are 0..15, or -8..7 when signed.
void unpack_int4_row(std::span<const std::uint32_t> packed,
                     const std::array<std::uint8_t, 8>& order, bool is_signed,
                     std::span<std::int8_t> codes);

}  // namespace quern
