// The checkpoint of tools/quark_schemes.py, value for value.
// Must never change alone: tests/golden/quark_schemes.json holds the hashes of both sides.
// Proved by tests/quantize/quark_schemes_test.cc, which checks the hash of each tensor.
#pragma once

#include "quern/numerics/fp16.h"
#include "tests/quantize/mixed_checkpoint.h"

namespace quern::test {

enum class SchemeValues { kHard, kWeights, kConstant };

struct SchemeTensor {
  std::string name;
  DType dtype;
  Shape shape;
  SchemeValues values;
  float constant = 0.0f;
};

inline std::vector<SchemeTensor> scheme_tensors() {
  using V = SchemeValues;
  return {
      {"model.a.weight", DType::kBF16, {16, 32}, V::kHard},
      {"model.b.weight", DType::kBF16, {8, 96}, V::kHard},
      {"model.c.weight", DType::kBF16, {24, 4128}, V::kHard},
      {"model.d.weight", DType::kBF16, {1, 256}, V::kHard},
      {"model.e.weight", DType::kBF16, {3, 8, 128}, V::kHard},
      {"model.f.weight", DType::kF16, {16, 128}, V::kHard},
      {"model.g.weight", DType::kF32, {16, 128}, V::kHard},
      {"model.h.weight", DType::kBF16, {64, 256}, V::kWeights},
      {"model.i.weight", DType::kF16, {64, 256}, V::kWeights},
      {"model.j.weight", DType::kF32, {64, 256}, V::kWeights},
      {"model.k.weight", DType::kBF16, {12, 128}, V::kWeights},
      {"model.l.weight", DType::kBF16, {3, 16, 64}, V::kWeights},
      {"model.m.weight", DType::kBF16, {8, 128}, V::kConstant, 0.0f},
      {"model.n.weight", DType::kF16, {8, 128}, V::kConstant, 0.0f},
      {"model.o.weight", DType::kF32, {8, 128}, V::kConstant, -2.5f},
      {"model.p.weight", DType::kBF16, {1, 32}, V::kWeights},
      {"model.q.weight", DType::kF16, {24, 4128}, V::kWeights},
      {"model.r.weight", DType::kF32, {24, 4128}, V::kWeights},
  };
}

// Bits of the binary32 value `i` of the tensor at `position` in the table.
inline std::uint32_t scheme_bits(const SchemeTensor& tensor, std::uint64_t position,
                                 std::uint64_t i) {
  switch (tensor.values) {
    case SchemeValues::kHard:
      return mixed_bits(position, i);
    case SchemeValues::kWeights: {
      const std::uint64_t h = splitmix64((position << 40) + i);
      const std::uint64_t bits = (122 - (h >> 32 & 7)) << 23 | (h >> 8 & 0x7FFFFF);
      return static_cast<std::uint32_t>(bits | (h & 1) << 31);
    }
    case SchemeValues::kConstant:
      break;
  }
  return std::bit_cast<std::uint32_t>(tensor.constant);
}

inline std::string scheme_data(const SchemeTensor& tensor, std::uint64_t position) {
  std::string data;
  const auto count = static_cast<std::uint64_t>(num_elements(tensor.shape));
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = scheme_bits(tensor, position, i);
    if (tensor.dtype == DType::kF16 && tensor.values != SchemeValues::kHard) {
      const FP16 half = float_to_fp16(std::bit_cast<float>(bits));
      data.append(reinterpret_cast<const char*>(&half), sizeof(half));
    } else {
      append_value(data, tensor.dtype, bits);
    }
  }
  return data;
}

}  // namespace quern::test
