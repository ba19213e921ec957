// Weights stored as codes with scales: FP8, packed integers, MXFP4, in any grid of scales.
// Must never read a scale outside its grid: the constructor proves all shapes.
// Proved by tests/quantize/source_test.cc and the comparison with NumPy and compressed-tensors.
#pragma once

#include <optional>

#include "quern/quantize/weight_source.h"

namespace quern {

enum class CodeFormat : std::uint8_t {
  kE4M3,
  kE5M2,
  kInt8,
  kPackedInteger,  // `bits` a value in I32 words, densely, value + 2^(bits-1)
  kE2M1,           // two a byte, even index low
};

// Value [r, c] = (code - zero point) * scale, computed in binary32, r over all leading dimensions.
struct ScaledWeight {
  std::string name;  // of the restored weight
  Shape shape;       // of the restored weight
  DType dtype = DType::kF32;
  CodeFormat format = CodeFormat::kE4M3;
  int bits = 8;  // for kPackedInteger
  KernelInput codes;
  KernelInput scales;
  // U8 scales are E8M0 bytes when true; other dtypes speak for themselves.
  bool u8_is_e8m0 = true;
  // A scale covers row_block x column_block values. Row blocks start anew every `row_period` rows
  // (a matrix of a stack, a shard of a presharded weight). 0: one block covers all.
  std::uint64_t row_block = 1;
  std::uint64_t column_block = 0;
  std::uint64_t row_period = 0;
  // I8 in the grid of the scales, or packed integers along the rows of it.
  std::optional<KernelInput> zero_points;
};

// Throws an Error naming the tensor when dtypes and shapes do not fit together.
std::unique_ptr<WeightSource> make_scaled_source(ScaledWeight weight);

}  // namespace quern
