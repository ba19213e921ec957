// A view of a dense row-major tensor in memory that somebody else owns (a mapped file, an arena).
// Must never own or copy; the owner outlives the view.
// Proved by tests/base/tensor_view_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quern/base/dtype.h"

namespace quern {

using Shape = std::vector<std::int64_t>;

// Product of the dimensions (1 for a scalar); throws Error on a negative dimension or overflow.
std::int64_t num_elements(const Shape& shape);
// "[3072, 6144]".
std::string shape_text(const Shape& shape);

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;

  std::int64_t size() const { return num_elements(shape); }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * dtype_bytes(dtype); }
  std::span<const std::byte> raw() const { return {data, bytes()}; }
  // The elements as T; the caller has checked dtype. Data in files may be unaligned for T only if the
  // file is malformed: the safetensors reader checks alignment.
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
};

}  // namespace quern
