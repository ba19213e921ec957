// A tensor of a checkpoint as the numbers it stands for, whatever format it is stored in.
// Must never guess: bytes whose format is not known have no values.
// Proved by tests/checkpoint/inspect_diff_test.cc and, against the quantizer's own measurement of
// each scheme, by tests/quantize/scheme_report_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "quern/checkpoint/checkpoint.h"

namespace quern {

// Floats; and with their scales, under the names of Quark's files and of FP8 releases: MXFP4,
// MXFP6, NVFP4, FP8 (a scale for the tensor, an index of the first dimension or a block), MXFP8,
// INT8, INT4 (by row, by group, of FP8). The checkpoint must outlive it.
class StoredValues {
 public:
  static std::optional<StoredValues> of(const Checkpoint& checkpoint, std::string_view name);

  bool is_quantized() const { return format_ != Format::kFloat; }
  // Of the values.
  const Shape& shape() const { return shape_; }
  // "MXFP4 [192, 64]".
  std::string text() const;
  // Values [begin, begin + out.size()) in row-major order; begin is a multiple of 32.
  void read(std::size_t begin, std::span<float> out) const;

 private:
  enum class Format : std::uint8_t {
    kFloat,
    kMxfp4,
    kMxfp6E3M2,
    kMxfp6E2M3,
    kNvfp4,
    kFp8E4M3,
    kFp8E5M2,
    kInt8,
    kInt4Row,
    kInt4Group,  // transposed: [in, out / 8]
    kInt4Fp8,
  };

  StoredValues(Format format, const TensorView& codes, Shape shape);
  static std::optional<StoredValues> of_bytes(const Checkpoint& checkpoint, std::string_view name,
                                              const TensorView& codes, const TensorView& scale);
  static std::optional<StoredValues> of_words(const Checkpoint& checkpoint, std::string_view name,
                                              const TensorView& codes, const TensorView& scale);
  static std::optional<StoredValues> of_fp8(const Checkpoint& checkpoint, const TensorView& codes,
                                            const TensorView& scale);
  // One scale for row_block x column_block values, of shape_ as [rows, columns]; false when the
  // scales do not fit that grid.
  bool set_grid(const TensorView& scale, std::uint64_t row_block, std::uint64_t column_block);
  // The code as a number.
  float code(std::size_t index, std::size_t row, std::size_t column) const;

  Format format_;
  const TensorView* codes_;
  Shape shape_;
  std::size_t rows_ = 0;
  std::size_t columns_ = 0;
  const TensorView* scale_ = nullptr;
  std::size_t row_block_ = 1;
  std::size_t column_block_ = 1;
  std::size_t scale_columns_ = 1;
  float factor_ = 1.0f;  // what all scales are multiplied with
};

}  // namespace quern
