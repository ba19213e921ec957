// See tensor_view.h.
#include "quern/base/tensor_view.h"

#include <fmt/ranges.h>

#include "quern/base/error.h"

namespace quern {

std::int64_t num_elements(const Shape& shape) {
  std::int64_t product = 1;
  for (const std::int64_t dim : shape) {
    if (dim < 0) throw Error("shape {} has a negative dimension", shape_text(shape));
    if (__builtin_mul_overflow(product, dim, &product)) {
      throw Error("shape {} has more than 2^63 elements", shape_text(shape));
    }
  }
  return product;
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace quern
