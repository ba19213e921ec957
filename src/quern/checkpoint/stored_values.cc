// See stored_values.h. Formats: docs/quantize.md; Quark 0.13, export/nn/modules/realquantizer.py.
#include "quern/checkpoint/stored_values.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>

#include "quern/base/error.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "quern/numerics/fp16.h"
#include "quern/numerics/minifloat.h"
#include "quern/numerics/mxfp4.h"

namespace quern {
namespace {

constexpr std::size_t kNvfp4Group = 16;
// The place of code i of eight in a word, by Quark's pack_method "reorder".
constexpr std::array<unsigned, 8> kReorderNibble = {0, 4, 1, 5, 2, 6, 3, 7};

std::size_t count_of(const TensorView& view) { return static_cast<std::size_t>(view.size()); }

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

bool is_e8m0(DType dtype) { return dtype == DType::kU8 || dtype == DType::kF8E8M0; }

// Floats, or powers of two.
float scale_value(const TensorView& view, std::size_t index) {
  switch (view.dtype) {
    case DType::kBF16:
      return bf16_to_float(view.as<BF16>()[index]);
    case DType::kF16:
      return fp16_to_float(view.as<FP16>()[index]);
    case DType::kF32:
      return view.as<float>()[index];
    case DType::kF8E4M3:
      return e4m3_to_float(view.as<std::uint8_t>()[index]);
    default:
      return e8m0_to_float(view.as<std::uint8_t>()[index]);
  }
}

const Json* member(const Json* object, const char* key) {
  if (object == nullptr || !object->is_object()) return nullptr;
  const auto found = object->find(key);
  return found == object->end() ? nullptr : &*found;
}

// The "dtype" of a module's weights in a Quark checkpoint's config.json; empty when it says
// nothing.
std::string quark_dtype(const Json& config, std::string_view weight) {
  const Json* quantization = member(&config, "quantization_config");
  const Json* layer = member(quantization, "global_quant_config");
  const std::string module(weight.substr(0, weight.rfind('.')));
  const Json* patterns = member(quantization, "layer_quant_config");
  if (patterns != nullptr && patterns->is_object()) {
    for (const auto& [pattern, value] : patterns->items()) {
      if (::fnmatch(pattern.c_str(), module.c_str(), FNM_NOESCAPE) != 0) continue;
      layer = &value;
      break;
    }
  }
  const Json* spec = member(layer, "weight");
  if (spec != nullptr && spec->is_array() && !spec->empty()) spec = &spec->back();
  const Json* dtype = member(spec, "dtype");
  return dtype != nullptr && dtype->is_string() ? dtype->get<std::string>() : std::string();
}

// "weight_block_size" of an FP8 release; {0, 0} when it says nothing.
std::array<std::uint64_t, 2> block_size(const Json& config) {
  const Json* block = member(member(&config, "quantization_config"), "weight_block_size");
  if (block == nullptr || !block->is_array() || block->size() != 2) return {0, 0};
  std::array<std::uint64_t, 2> sizes{};
  for (std::size_t i = 0; i < 2; ++i) {
    const Json& size = (*block)[i];
    if (size.is_number_integer() && size.get<std::int64_t>() > 0)
      sizes[i] = size.get<std::uint64_t>();
  }
  return sizes;
}

}  // namespace

StoredValues::StoredValues(Format format, const TensorView& codes, Shape shape)
    : format_(format), codes_(&codes), shape_(std::move(shape)) {
  columns_ = shape_.empty() ? 1 : static_cast<std::size_t>(shape_.back());
  rows_ = columns_ == 0 ? 0 : static_cast<std::size_t>(num_elements(shape_)) / columns_;
}

std::optional<StoredValues> StoredValues::of(const Checkpoint& checkpoint, std::string_view name) {
  const TensorView& codes = checkpoint.get(name);
  if (is_float(codes.dtype)) return StoredValues(Format::kFloat, codes, codes.shape);
  const TensorView* scale = checkpoint.find(fmt::format("{}_scale", name));
  if (scale == nullptr) scale = checkpoint.find(fmt::format("{}_scale_inv", name));
  if (scale == nullptr || codes.shape.empty() || codes.size() == 0) return std::nullopt;
  switch (codes.dtype) {
    case DType::kU8:
      return of_bytes(checkpoint, name, codes, *scale);
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kI8:
      return of_fp8(checkpoint, codes, *scale);
    case DType::kI32:
      return of_words(checkpoint, name, codes, *scale);
    default:
      return std::nullopt;
  }
}

// FP4 and FP6, by the number of scales.
std::optional<StoredValues> StoredValues::of_bytes(const Checkpoint& checkpoint,
                                                   std::string_view name, const TensorView& codes,
                                                   const TensorView& scale) {
  const auto with = [&](Format format, std::int64_t values, std::int64_t bytes,
                        std::size_t group) -> std::optional<StoredValues> {
    Shape shape = codes.shape;
    if (shape.back() % bytes != 0) return std::nullopt;
    shape.back() = shape.back() / bytes * values;
    StoredValues stored(format, codes, std::move(shape));
    if (stored.columns_ % group != 0 || !stored.set_grid(scale, 1, group)) return std::nullopt;
    return stored;
  };
  const std::size_t bytes = count_of(codes);
  const std::size_t scales = count_of(scale);
  if (is_e8m0(scale.dtype) && scales * (kMxBlock / 2) == bytes) {
    return with(Format::kMxfp4, 2, 1, kMxBlock);
  }
  if (is_e8m0(scale.dtype) && scales * (kMxBlock * 6 / 8) == bytes) {
    const std::string dtype = quark_dtype(checkpoint.config(), name);
    if (dtype == "fp6_e3m2") return with(Format::kMxfp6E3M2, 4, 3, kMxBlock);
    if (dtype == "fp6_e2m3") return with(Format::kMxfp6E2M3, 4, 3, kMxBlock);
    return std::nullopt;
  }
  const TensorView* global = checkpoint.find(fmt::format("{}_scale_2", name));
  if (scale.dtype != DType::kF8E4M3 || scales * (kNvfp4Group / 2) != bytes || global == nullptr ||
      global->dtype != DType::kF32 || count_of(*global) != 1) {
    return std::nullopt;
  }
  auto stored = with(Format::kNvfp4, 2, 1, kNvfp4Group);
  if (stored) stored->factor_ = scale_value(*global, 0);
  return stored;
}

// One byte a value: FP8 and INT8, with one scale, one for each index of the first dimension, or one
// for each block.
std::optional<StoredValues> StoredValues::of_fp8(const Checkpoint& checkpoint,
                                                 const TensorView& codes, const TensorView& scale) {
  const Format format = codes.dtype == DType::kI8       ? Format::kInt8
                        : codes.dtype == DType::kF8E4M3 ? Format::kFp8E4M3
                                                        : Format::kFp8E5M2;
  StoredValues stored(format, codes, codes.shape);
  if (!is_float(scale.dtype) && !is_e8m0(scale.dtype)) return std::nullopt;
  const auto first = static_cast<std::size_t>(codes.shape.front());
  bool fits = false;
  if (count_of(scale) == 1) {
    fits = stored.set_grid(scale, stored.rows_, stored.columns_);
  } else if (scale.shape.size() <= 1 && count_of(scale) == first) {
    fits = stored.set_grid(scale, stored.rows_ / first, stored.columns_);
  } else if (const auto block = block_size(checkpoint.config()); block[0] > 0 && block[1] > 0) {
    fits = stored.set_grid(scale, block[0], block[1]);
  }
  if (!fits) return std::nullopt;
  return stored;
}

// Eight codes a word.
std::optional<StoredValues> StoredValues::of_words(const Checkpoint& checkpoint,
                                                   std::string_view name, const TensorView& codes,
                                                   const TensorView& scale) {
  // uint4 is stored without its zero points: the values are lost.
  if (quark_dtype(checkpoint.config(), name) != "int4" || codes.shape.size() != 2) {
    return std::nullopt;
  }
  const Shape by_row = {codes.shape[0], codes.shape[1] * 8};
  if (const TensorView* rows = checkpoint.find(fmt::format("{}_scale_2", name))) {
    StoredValues stored(Format::kInt4Fp8, codes, by_row);
    const bool fits = is_float(scale.dtype) && count_of(scale) == 1 && is_float(rows->dtype) &&
                      stored.set_grid(*rows, 1, stored.columns_);
    if (!fits) return std::nullopt;
    stored.factor_ = scale_value(scale, 0);
    return stored;
  }
  if (!is_float(scale.dtype)) return std::nullopt;
  if (scale.shape.size() == 1) {
    StoredValues stored(Format::kInt4Row, codes, by_row);
    if (!stored.set_grid(scale, 1, stored.columns_)) return std::nullopt;
    return stored;
  }
  if (scale.shape.size() != 2 || scale.size() == 0) return std::nullopt;
  const std::int64_t in = codes.shape[0];
  const std::int64_t out = scale.shape[0];
  if ((out + 7) / 8 != codes.shape[1] || in % scale.shape[1] != 0) return std::nullopt;
  StoredValues stored(Format::kInt4Group, codes, {out, in});
  if (!stored.set_grid(scale, 1, static_cast<std::uint64_t>(in / scale.shape[1]))) {
    return std::nullopt;
  }
  return stored;
}

bool StoredValues::set_grid(const TensorView& scale, std::uint64_t row_block,
                            std::uint64_t column_block) {
  if (rows_ == 0 || row_block == 0 || column_block == 0) return false;
  scale_ = &scale;
  row_block_ = row_block;
  column_block_ = column_block;
  scale_columns_ = (columns_ + column_block - 1) / column_block;
  return count_of(scale) == (rows_ + row_block - 1) / row_block * scale_columns_;
}

std::string StoredValues::text() const {
  static constexpr std::array<std::string_view, 11> kNames = {
      "",         "MXFP4", "MXFP6 E3M2", "MXFP6 E2M3", "NVFP4",      "FP8 E4M3",
      "FP8 E5M2", "INT8",  "INT4",       "INT4",       "INT4 of FP8"};
  return fmt::format(
      "{} {}",
      is_quantized() ? kNames[static_cast<std::size_t>(format_)] : dtype_name(codes_->dtype),
      shape_text(shape_));
}

float StoredValues::code(std::size_t index, std::size_t row, std::size_t column) const {
  const auto* bytes = codes_->as<std::uint8_t>();
  const auto signed_nibble = [&](std::size_t word, unsigned nibble) {
    const auto value = static_cast<int>(codes_->as<std::uint32_t>()[word] >> (4 * nibble) & 15u);
    return static_cast<float>(value < 8 ? value : value - 16);
  };
  // Rows of words may be padded at their end.
  const auto words_of_line = static_cast<std::size_t>(codes_->shape.back());
  switch (format_) {
    case Format::kNvfp4:
      return kE2M1Values[bytes[index / 2] >> (index % 2 * 4) & 15u];
    case Format::kMxfp6E3M2:
    case Format::kMxfp6E2M3: {
      const std::size_t bit = index * 6;
      const std::uint32_t low = bytes[bit / 8];
      // The last code of three bytes ends with them.
      const std::uint32_t high = bit % 8 > 2 ? bytes[bit / 8 + 1] : 0u;
      const auto code = static_cast<std::uint8_t>((low | high << 8) >> (bit % 8) & 63u);
      return decode_code(format_ == Format::kMxfp6E3M2 ? kE3M2 : kE2M3, code);
    }
    case Format::kFp8E4M3:
      return e4m3_to_float(bytes[index]);
    case Format::kFp8E5M2:
      return e5m2_to_float(bytes[index]);
    case Format::kInt8:
      return static_cast<float>(codes_->as<std::int8_t>()[index]);
    case Format::kInt4Row:
      return signed_nibble(row * words_of_line + column / 8, static_cast<unsigned>(column % 8));
    case Format::kInt4Fp8:
      return signed_nibble(row * words_of_line + column / 8, kReorderNibble[column % 8]);
    case Format::kInt4Group:
      return signed_nibble(column * words_of_line + row / 8, static_cast<unsigned>(row % 8));
    case Format::kFloat:
    case Format::kMxfp4:
      break;
  }
  QUERN_CHECK(false);
}

void StoredValues::read(std::size_t begin, std::span<float> out) const {
  const std::size_t count = out.size();
  if (format_ == Format::kMxfp4) {
    return mxfp4_decode_row({codes_->as<std::uint8_t>() + begin / 2, count / 2},
                            {scale_->as<std::uint8_t>() + begin / kMxBlock, count / kMxBlock}, out);
  }
  if (format_ == Format::kFloat && codes_->dtype == DType::kBF16) {
    return bf16_to_float({codes_->as<BF16>() + begin, count}, out);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (format_ == Format::kFloat) {
      out[i] = scale_value(*codes_, begin + i);
      continue;
    }
    const std::size_t row = (begin + i) / columns_;
    const std::size_t column = (begin + i) % columns_;
    const std::size_t place = row / row_block_ * scale_columns_ + column / column_block_;
    out[i] = code(begin + i, row, column) * (scale_value(*scale_, place) * factor_);
  }
}

}  // namespace quern
