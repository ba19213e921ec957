// Element types of tensors, as safetensors names them.
// Must never guess a size: an unknown name is an error of the caller's file.
// Proved by tests/base/tensor_view_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace quern {

enum class DType : std::uint8_t {
  kBool, kU8, kI8, kU16, kI16, kU32, kI32, kU64, kI64, kF8E4M3, kF8E5M2, kF8E8M0, kF16, kBF16, kF32, kF64,
};

// Bytes of one element.
std::size_t dtype_bytes(DType dtype);
// The name in a safetensors header ("BF16", "F8_E4M3", ...).
std::string_view dtype_name(DType dtype);
// The inverse; empty for a name that is not known.
std::optional<DType> dtype_from_name(std::string_view name);

}  // namespace quern
