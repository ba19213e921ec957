// A weight of the naive back end: decoded to float32 when it is bound.
// Must never be included outside this folder. Proved by tests/kernels/parity_test.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "quern/kernels/backend.h"

namespace quern::kernels {

class ReferenceWeight final : public Weight {
 public:
  ReferenceWeight(std::int64_t rows, std::int64_t cols, WeightFormat format)
      : Weight(rows, cols, format), values(static_cast<std::size_t>(rows * cols)) {}
  const float* row(std::int64_t r) const { return values.data() + r * cols(); }
  std::vector<float> values;
};

inline const ReferenceWeight& ref(const Weight& weight) {
  return static_cast<const ReferenceWeight&>(weight);
}
inline const ReferenceWeight& ref(const WeightHandle& weight) { return ref(*weight); }

// The sum in double, so that the result is exact to within one float32 rounding.
inline double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

}  // namespace quern::kernels
