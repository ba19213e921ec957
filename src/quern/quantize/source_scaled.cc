// See source_scaled.h.
#include "quern/quantize/source_scaled.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "quern/base/error.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "quern/numerics/fp16.h"
#include "quern/numerics/minifloat.h"

namespace quern {
namespace {

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

using CodeTable = std::array<float, 256>;

CodeTable make_table(float (*value)(std::uint8_t)) {
  CodeTable table;
  for (std::size_t code = 0; code < table.size(); ++code) {
    table[code] = value(static_cast<std::uint8_t>(code));
  }
  return table;
}

// What a byte stands for, for formats with a value a byte.
const CodeTable& byte_values(CodeFormat format) {
  static const CodeTable e4m3 = make_table(e4m3_to_float);
  static const CodeTable e5m2 = make_table(e5m2_to_float);
  static const CodeTable int8 = make_table(
      [](std::uint8_t code) { return static_cast<float>(static_cast<std::int8_t>(code)); });
  return format == CodeFormat::kE4M3 ? e4m3 : format == CodeFormat::kE5M2 ? e5m2 : int8;
}

// Value `index` of densely packed integers, without its offset.
std::int32_t packed_value(const std::uint32_t* words, std::uint64_t index, int bits) {
  const std::uint64_t bit = index * static_cast<std::uint64_t>(bits);
  const auto shift = static_cast<unsigned>(bit % 32);
  std::uint64_t word = words[bit / 32];
  if (shift + static_cast<unsigned>(bits) > 32) {
    word |= static_cast<std::uint64_t>(words[bit / 32 + 1]) << 32;
  }
  const std::uint64_t mask = (1u << bits) - 1;
  return static_cast<std::int32_t>(word >> shift & mask) - (1 << (bits - 1));
}

class ScaledSource final : public WeightSource {
 public:
  explicit ScaledSource(ScaledWeight weight)
      : WeightSource(weight.name, weight.dtype, weight.shape, inputs_of(weight)),
        weight_(std::move(weight)),
        columns_(static_cast<std::uint64_t>(shape().back())),
        rows_(columns_ == 0 ? 0 : elements() / columns_) {
    if (weight_.row_period == 0) weight_.row_period = std::max<std::uint64_t>(rows_, 1);
    if (weight_.row_block == 0) weight_.row_block = weight_.row_period;
    if (weight_.column_block == 0) weight_.column_block = std::max<std::uint64_t>(columns_, 1);
    scale_columns_ = ceil_div(columns_, weight_.column_block);
    period_rows_ = ceil_div(weight_.row_period, weight_.row_block);
    check();
  }

  std::uint64_t granularity() const override { return std::max<std::uint64_t>(columns_, 1); }

  Range input_range(std::size_t input, Range elements) const override {
    const Range rows = rows_of(elements);
    if (rows.size() == 0) return {0, 0};
    if (input == 0) return {rows.begin * row_bytes(), rows.end * row_bytes()};
    const Range scales = scale_rows(rows);
    if (input == 1) {
      const std::uint64_t line = scale_columns_ * dtype_bytes(weight_.scales.tensor.dtype);
      return {scales.begin * line, scales.end * line};
    }
    if (!packed_zero_points()) return {scales.begin * scale_columns_, scales.end * scale_columns_};
    const auto bits = static_cast<std::uint64_t>(weight_.bits);
    const std::uint64_t line = scale_columns_ * 4;
    return {scales.begin * bits / 32 * line, ceil_div(scales.end * bits, 32) * line};
  }

  std::span<const std::byte> read(Range elements, InputBytes inputs,
                                  std::vector<std::byte>& scratch) const override {
    const Range rows = rows_of(elements);
    scratch.resize(elements.size() * dtype_bytes(dtype()));
    std::vector<float> values(columns_);
    std::vector<float> scales(scale_columns_);
    std::vector<float> zeros(weight_.zero_points ? scale_columns_ : 0);
    const Range grid = scale_rows(rows);
    std::uint64_t loaded = grid.end;  // the scale row in `scales`; none yet
    for (std::uint64_t row = rows.begin; row < rows.end; ++row) {
      const std::uint64_t scale_row = scale_row_of(row);
      if (scale_row != loaded) {
        load_scales(inputs[1], (scale_row - grid.begin) * scale_columns_, scales);
        if (weight_.zero_points) load_zero_points(inputs[2], scale_row, grid, zeros);
        loaded = scale_row;
      }
      decode_row(inputs[0].data() + (row - rows.begin) * row_bytes(), values);
      for (std::uint64_t begin = 0, block = 0; begin < columns_; ++block) {
        const std::uint64_t end = std::min(begin + weight_.column_block, columns_);
        const float scale = scales[block];
        const float zero = zeros.empty() ? 0.0f : zeros[block];
        for (std::uint64_t i = begin; i < end; ++i) values[i] = (values[i] - zero) * scale;
        begin = end;
      }
      store(values, scratch.data() + (row - rows.begin) * columns_ * dtype_bytes(dtype()));
    }
    return scratch;
  }

 private:
  static std::vector<KernelInput> inputs_of(const ScaledWeight& weight) {
    std::vector<KernelInput> inputs = {weight.codes, weight.scales};
    if (weight.zero_points) inputs.push_back(*weight.zero_points);
    return inputs;
  }

  bool packed_zero_points() const {
    return weight_.zero_points && weight_.zero_points->tensor.dtype == DType::kI32;
  }

  [[noreturn]] void fail(const TensorInfo& tensor, std::string_view expected) const {
    throw Error("tensor '{}' {} {} does not fit the weight '{}' {}: expected {}", tensor.name,
                dtype_name(tensor.dtype), shape_text(tensor.shape), name(), shape_text(shape()),
                expected);
  }

  void check() const {
    const TensorInfo& codes = weight_.codes.tensor;
    if (codes.bytes() != rows_ * row_bytes()) {
      fail(codes, fmt::format("{} bytes of codes", rows_ * row_bytes()));
    }
    if (rows_ % weight_.row_period != 0) {
      throw Error("tensor '{}': {} rows are not a multiple of the {} rows of a chunk", name(),
                  rows_, weight_.row_period);
    }
    const TensorInfo& scales = weight_.scales.tensor;
    const DType type = scales.dtype;
    const bool known = type == DType::kF32 || type == DType::kBF16 || type == DType::kF16 ||
                       type == DType::kF8E8M0 || (type == DType::kU8 && weight_.u8_is_e8m0);
    if (!known) fail(scales, "F32, BF16, F16 or E8M0 scales");
    const std::uint64_t count = rows_ / weight_.row_period * period_rows_ * scale_columns_;
    if (static_cast<std::uint64_t>(num_elements(scales.shape)) != count) {
      fail(scales, fmt::format("{} scales, one for {} x {} values", count, weight_.row_block,
                               weight_.column_block));
    }
    if (!weight_.zero_points) return;
    const TensorInfo& zeros = weight_.zero_points->tensor;
    const std::uint64_t grid_rows = count / std::max<std::uint64_t>(scale_columns_, 1);
    const std::uint64_t zero_count =
        packed_zero_points()
            ? ceil_div(grid_rows * static_cast<std::uint64_t>(weight_.bits), 32) * scale_columns_
            : count;
    if ((zeros.dtype != DType::kI32 && zeros.dtype != DType::kI8) ||
        static_cast<std::uint64_t>(num_elements(zeros.shape)) != zero_count) {
      fail(zeros, fmt::format("{} zero points, I8 or packed I32", zero_count));
    }
  }

  Range rows_of(Range elements) const {
    return {elements.begin / granularity(), elements.end / granularity()};
  }

  std::uint64_t row_bytes() const {
    switch (weight_.format) {
      case CodeFormat::kPackedInteger:
        return ceil_div(columns_ * static_cast<std::uint64_t>(weight_.bits), 32) * 4;
      case CodeFormat::kE2M1:
        return columns_ / 2;
      default:
        return columns_;
    }
  }

  std::uint64_t scale_row_of(std::uint64_t row) const {
    return row / weight_.row_period * period_rows_ + row % weight_.row_period / weight_.row_block;
  }
  Range scale_rows(Range rows) const {
    return {scale_row_of(rows.begin), scale_row_of(rows.end - 1) + 1};
  }

  void load_scales(std::span<const std::byte> bytes, std::uint64_t begin,
                   std::vector<float>& scales) const {
    const std::byte* from = bytes.data() + begin * dtype_bytes(weight_.scales.tensor.dtype);
    for (std::size_t i = 0; i < scales.size(); ++i) {
      switch (weight_.scales.tensor.dtype) {
        case DType::kF32:
          std::memcpy(&scales[i], from + 4 * i, 4);
          break;
        case DType::kBF16: {
          BF16 value;
          std::memcpy(&value, from + 2 * i, 2);
          scales[i] = bf16_to_float(value);
          break;
        }
        case DType::kF16: {
          FP16 value;
          std::memcpy(&value, from + 2 * i, 2);
          scales[i] = fp16_to_float(value);
          break;
        }
        default:
          scales[i] = e8m0_to_float(static_cast<std::uint8_t>(from[i]));
      }
    }
  }

  // Zero points of row `row` of the grid; `bytes` begin with what input_range() gave for `grid`.
  void load_zero_points(std::span<const std::byte> bytes, std::uint64_t row, Range grid,
                        std::vector<float>& zeros) const {
    if (!packed_zero_points()) {
      const std::byte* from = bytes.data() + (row - grid.begin) * scale_columns_;
      for (std::size_t i = 0; i < zeros.size(); ++i) {
        zeros[i] = static_cast<float>(static_cast<std::int8_t>(from[i]));
      }
      return;
    }
    // Packed down the rows: the words of one column lie scale_columns_ apart.
    const std::uint64_t first_word = grid.begin * static_cast<std::uint64_t>(weight_.bits) / 32;
    const std::uint64_t bit = row * static_cast<std::uint64_t>(weight_.bits);
    for (std::size_t i = 0; i < zeros.size(); ++i) {
      std::array<std::uint32_t, 2> words{};
      const std::byte* from = bytes.data() + ((bit / 32 - first_word) * scale_columns_ + i) * 4;
      std::memcpy(&words[0], from, 4);
      if (bit % 32 + static_cast<std::uint64_t>(weight_.bits) > 32) {
        std::memcpy(&words[1], from + scale_columns_ * 4, 4);
      }
      const std::uint64_t both = words[0] | static_cast<std::uint64_t>(words[1]) << 32;
      const auto code = static_cast<std::int32_t>(both >> (bit % 32) & ((1u << weight_.bits) - 1));
      zeros[i] = static_cast<float>(code - (1 << (weight_.bits - 1)));
    }
  }

  void decode_row(const std::byte* codes, std::vector<float>& values) const {
    switch (weight_.format) {
      case CodeFormat::kPackedInteger: {
        const auto* words = reinterpret_cast<const std::uint32_t*>(codes);
        for (std::uint64_t i = 0; i < columns_; ++i) {
          values[i] = static_cast<float>(packed_value(words, i, weight_.bits));
        }
        return;
      }
      case CodeFormat::kE2M1:
        for (std::uint64_t i = 0; i < columns_; i += 2) {
          const auto byte = static_cast<std::uint8_t>(codes[i / 2]);
          values[i] = kE2M1Values[byte & 15u];
          values[i + 1] = kE2M1Values[byte >> 4];
        }
        return;
      default: {
        const CodeTable& table = byte_values(weight_.format);
        for (std::uint64_t i = 0; i < columns_; ++i) {
          values[i] = table[static_cast<std::uint8_t>(codes[i])];
        }
      }
    }
  }

  void store(const std::vector<float>& values, std::byte* to) const {
    if (dtype() == DType::kBF16) {
      float_to_bf16(values, {reinterpret_cast<BF16*>(to), values.size()});
    } else if (dtype() == DType::kF16) {
      float_to_fp16(values, {reinterpret_cast<FP16*>(to), values.size()});
    } else {
      std::memcpy(to, values.data(), values.size() * sizeof(float));
    }
  }

  ScaledWeight weight_;
  std::uint64_t columns_;
  std::uint64_t rows_;
  std::uint64_t scale_columns_ = 0;
  std::uint64_t period_rows_ = 0;  // scale rows of a period
};

}  // namespace

std::unique_ptr<WeightSource> make_scaled_source(ScaledWeight weight) {
  const bool odd = weight.format == CodeFormat::kE2M1 && weight.shape.back() % 2 != 0;
  if (odd) throw Error("tensor '{}': an odd number of FP4 values in a row", weight.name);
  return std::make_unique<ScaledSource>(std::move(weight));
}

}  // namespace quern
