// FP8 and integers with a scale for a tensor, for each index of the first dimension or for a group.
// See weight_encoder.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "quern/base/error.h"
#include "quern/quantize/encoder_parts.h"

namespace quern {
namespace {

// More elements than this are not held at once: their range is found by a scan.
constexpr std::uint64_t kMaxChannel = 1u << 20;

// Ranges of channels of equal size (a whole tensor is one channel), and the place of their scales.
class Channels {
 public:
  Channels(const WeightSource& source, ScaleOf scale_of)
      : count_(scale_of == ScaleOf::kTensor ? 1
                                            : static_cast<std::uint64_t>(source.shape().front())),
        size_(source.elements() / count_),
        scanned_(scale_of == ScaleOf::kTensor || size_ > kMaxChannel),
        ranges_(scanned_ ? count_ : 0) {}

  bool needs_scan() const { return scanned_; }
  std::uint64_t granularity(std::uint64_t if_scanned) const {
    return scanned_ ? if_scanned : size_;
  }
  // Scales are written with the last element of their channel.
  OutputRegion region(Range elements) const {
    const std::uint64_t begin = elements.begin / size_;
    return {begin * sizeof(float), (elements.end / size_ - begin) * sizeof(float)};
  }
  bool ends_at(std::uint64_t channel, std::uint64_t element) const {
    return element == (channel + 1) * size_;
  }
  // Calls fn(channel, offset in `floats`, length) for the part of each channel.
  template <typename Fn>
  void for_each(Range elements, const Fn& fn) const {
    for (std::uint64_t at = elements.begin; at < elements.end;) {
      const std::uint64_t channel = at / size_;
      const std::uint64_t end = std::min(elements.end, (channel + 1) * size_);
      fn(channel, at - elements.begin, end - at);
      at = end;
    }
  }
  void scan(Range elements, std::span<const float> floats) {
    for_each(elements, [&](std::uint64_t channel, std::uint64_t offset, std::uint64_t length) {
      ranges_[channel].add(min_max(floats.subspan(offset, length)));
    });
  }
  MinMax range(std::uint64_t channel, std::span<const float> part) const {
    return scanned_ ? ranges_[channel].get() : min_max(part);
  }

 private:
  std::uint64_t count_;
  std::uint64_t size_;
  bool scanned_;
  std::vector<TensorRange> ranges_;
};

Shape scale_shape(const WeightSource& source, ScaleOf scale_of) {
  return scale_of == ScaleOf::kTensor ? Shape{} : Shape{source.shape().front()};
}

class ChannelEncoder : public WeightEncoder {
 public:
  bool needs_scan() const override { return channels_.needs_scan(); }
  void scan(const WeightValues& values) override {
    std::vector<float> floats;
    widen(values, floats);
    channels_.scan(values.elements, floats);
  }

  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    std::vector<float> floats;
    widen(values, floats);
    if (!floats.empty() && !min_max(floats).finite) return false;
    const OutputRegion region = channels_.region(values.elements);
    float* scales = elements<float>(outputs[1]).data();
    const std::uint64_t first = region.offset / sizeof(float);
    const std::uint64_t count = region.line_bytes / sizeof(float);
    channels_.for_each(
        values.elements, [&](std::uint64_t channel, std::uint64_t offset, std::uint64_t length) {
          const auto part = std::span<const float>(floats).subspan(offset, length);
          const float scale =
              encode_part(channels_.range(channel, part), values.dtype, part, offset, outputs[0]);
          if (channel - first < count) scales[channel - first] = scale;
        });
    return true;
  }

  bool measure(const WeightValues& values, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    std::vector<float> floats;
    widen(values, floats);
    std::vector<float> restored;
    channels_.for_each(
        values.elements, [&](std::uint64_t channel, std::uint64_t offset, std::uint64_t length) {
          const auto part = std::span<const float>(floats).subspan(offset, length);
          const MinMax range = channels_.range(channel, part);
          restored.resize(length);
          const Group group = restore_part(range, values.dtype, offset, outputs[0], restored);
          measure_part({part, restored, group.scale, group.low, group.high, peak_of(range),
                        channels_.ends_at(channel, values.elements.begin + offset + length)},
                       statistics);
        });
    return true;
  }

 protected:
  ChannelEncoder(std::vector<TensorSpec> specs, const WeightSource& source, ScaleOf scale_of)
      : WeightEncoder(std::move(specs)), channels_(source, scale_of) {}

  const Channels& channels() const { return channels_; }

  // The scale of a group, the least and the largest value that it can hold.
  struct Group {
    float scale;
    double low;
    double high;
  };
  static Group group_of(const IntegerGrid& grid, float scale) {
    return {scale, grid_value(grid, scale, grid.low), grid_value(grid, scale, grid.high)};
  }

 private:
  // Encodes a part of a channel that begins `offset` elements into this range; returns its scale.
  virtual float encode_part(const MinMax& range, DType dtype, std::span<const float> part,
                            std::uint64_t offset, std::span<std::byte> out) const = 0;
  // The values of such a part, as `out` holds them.
  virtual Group restore_part(const MinMax& range, DType dtype, std::uint64_t offset,
                             std::span<const std::byte> out, std::span<float> restored) const = 0;

  Channels channels_;
};

class Fp8Encoder final : public ChannelEncoder {
 public:
  Fp8Encoder(const WeightSource& source, ScaleOf scale_of)
      : ChannelEncoder({{source.name(), DType::kF8E4M3, source.shape()},
                        {source.name() + "_scale", DType::kF32, scale_shape(source, scale_of)}},
                       source, scale_of),
        scale_of_(scale_of) {}

  std::uint64_t granularity() const override { return channels().granularity(1); }
  OutputRegion output_region(std::size_t output, Range elements, bool) const override {
    if (output == 1) return channels().region(elements);
    return {elements.begin, elements.size()};
  }

 private:
  float encode_part(const MinMax& range, DType dtype, std::span<const float> part,
                    std::uint64_t offset, std::span<std::byte> out) const override {
    const float scale = fp8_scale(range);
    // torch divides by a scalar of binary32 as it is, by a tensor after a cast to the weight's
    // dtype.
    const float divisor = scale_of_ == ScaleOf::kTensor ? scale : round_to(dtype, scale);
    e4m3_encode(part, divisor, quotient_type(dtype),
                elements<std::uint8_t>(out).subspan(offset, part.size()));
    return scale;
  }

  Group restore_part(const MinMax& range, DType, std::uint64_t offset,
                     std::span<const std::byte> out, std::span<float> restored) const override {
    const float scale = fp8_scale(range);
    const auto codes = elements<std::uint8_t>(out).subspan(offset, restored.size());
    std::ranges::transform(codes, restored.begin(),
                           [&](std::uint8_t code) { return e4m3_to_float(code) * scale; });
    return {scale, -448.0 * scale, 448.0 * scale};
  }

  ScaleOf scale_of_;
};

class Int8Encoder final : public ChannelEncoder {
 public:
  explicit Int8Encoder(const WeightSource& source)
      : ChannelEncoder({{source.name(), DType::kI8, source.shape()},
                        {source.name() + "_scale", DType::kF32, {}}},
                       source, ScaleOf::kTensor) {}

  std::uint64_t granularity() const override { return 1; }
  OutputRegion output_region(std::size_t output, Range elements, bool) const override {
    if (output == 1) return channels().region(elements);
    return {elements.begin, elements.size()};
  }

 private:
  float encode_part(const MinMax& range, DType dtype, std::span<const float> part,
                    std::uint64_t offset, std::span<std::byte> out) const override {
    float scale = 0.0f;
    const IntegerGrid grid = integer_grid(range, dtype, true, 8, scale);
    integer_encode(part, grid, elements<std::int8_t>(out).subspan(offset, part.size()));
    return scale;
  }

  Group restore_part(const MinMax& range, DType dtype, std::uint64_t offset,
                     std::span<const std::byte> out, std::span<float> restored) const override {
    float scale = 0.0f;
    const IntegerGrid grid = integer_grid(range, dtype, true, 8, scale);
    const auto codes = elements<std::int8_t>(out).subspan(offset, restored.size());
    std::ranges::transform(codes, restored.begin(),
                           [&](std::int8_t code) { return static_cast<float>(code) * scale; });
    return group_of(grid, scale);
  }
};

std::uint64_t words(std::uint64_t codes) { return (codes + 7) / 8; }

class Int4RowEncoder final : public ChannelEncoder {
 public:
  Int4RowEncoder(const WeightSource& source, bool is_signed)
      : ChannelEncoder({{source.name(),
                         DType::kI32,
                         {source.shape()[0], static_cast<std::int64_t>(words(columns_of(source)))}},
                        {source.name() + "_scale", DType::kF32, {source.shape()[0]}}},
                       source, ScaleOf::kFirstDimension),
        columns_(columns_of(source)),
        is_signed_(is_signed) {}

  std::uint64_t granularity() const override {
    return channels().granularity(columns_ % 8 == 0 ? 8 : columns_);
  }
  OutputRegion output_region(std::size_t output, Range elements, bool) const override {
    if (output == 1) return channels().region(elements);
    const std::uint64_t begin = words_before(elements.begin);
    return {begin * 4, (words_before(elements.end) - begin) * 4};
  }

 private:
  std::uint64_t words_before(std::uint64_t element) const {
    return element / columns_ * words(columns_) + element % columns_ / 8;
  }

  float encode_part(const MinMax& range, DType dtype, std::span<const float> part,
                    std::uint64_t offset, std::span<std::byte> out) const override {
    float scale = 0.0f;
    const IntegerGrid grid = integer_grid(range, dtype, is_signed_, 4, scale);
    std::vector<std::int8_t> codes(part.size());
    integer_encode(part, grid, codes);
    pack_int4_row(codes, kPlainOrder,
                  elements<std::uint32_t>(out).subspan(first_word(offset), words(part.size())));
    return scale;
  }

  // Of uint4 with the zero point that Quark does not write: the error of the codes alone.
  Group restore_part(const MinMax& range, DType dtype, std::uint64_t offset,
                     std::span<const std::byte> out, std::span<float> restored) const override {
    float scale = 0.0f;
    const IntegerGrid grid = integer_grid(range, dtype, is_signed_, 4, scale);
    std::vector<std::int8_t> codes(restored.size());
    unpack_int4_row(elements<std::uint32_t>(out).subspan(first_word(offset), words(codes.size())),
                    kPlainOrder, is_signed_, codes);
    std::ranges::transform(codes, restored.begin(), [&](std::int8_t code) {
      return static_cast<float>(grid_value(grid, scale, code));
    });
    return group_of(grid, scale);
  }

  // Parts begin at rows, or at multiples of 8 within a row of a multiple of 8.
  std::uint64_t first_word(std::uint64_t offset) const {
    return columns_ % 8 == 0 ? offset / 8 : words_before(offset);
  }

  std::uint64_t columns_;
  bool is_signed_;
};

// Transposed: eight rows become one word of each column.
class Int4GroupEncoder final : public WeightEncoder {
 public:
  Int4GroupEncoder(const WeightSource& source, bool is_signed, std::uint64_t group)
      : WeightEncoder(
            {{source.name(),
              DType::kI32,
              {source.shape()[1], static_cast<std::int64_t>(words(rows_of(source)))}},
             {source.name() + "_scale",
              DType::kF32,
              {source.shape()[0], source.shape()[1] / static_cast<std::int64_t>(group)}}}),
        columns_(columns_of(source)),
        row_words_(words(rows_of(source))),
        is_signed_(is_signed),
        group_(group) {}

  std::uint64_t granularity() const override { return 8 * columns_; }
  OutputRegion output_region(std::size_t output, Range elements, bool) const override {
    const std::uint64_t rows = elements.size() / columns_;
    const std::uint64_t first = elements.begin / columns_;
    if (output == 0) return {first / 8 * 4, words(rows) * 4, columns_, row_words_ * 4};
    const std::uint64_t row_bytes = columns_ / group_ * sizeof(float);
    return {first * row_bytes, rows * row_bytes};
  }

  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    std::vector<float> floats;
    widen(values, floats);
    std::vector<std::int8_t> codes(floats.size());
    const auto scales = elements<float>(outputs[1]);
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const auto part = std::span<const float>(floats).subspan(g * group_, group_);
      const MinMax range = min_max(part);
      if (!range.finite) return false;
      const IntegerGrid grid = integer_grid(range, values.dtype, is_signed_, 4, scales[g]);
      integer_encode(part, grid, std::span(codes).subspan(g * group_, group_));
    }
    pack(codes, elements<std::uint32_t>(outputs[0]));
    return true;
  }

  // Of uint4 with the zero points that Quark does not write: the error of the codes alone.
  bool measure(const WeightValues& values, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    std::vector<float> floats;
    widen(values, floats);
    const auto scales = elements<float>(outputs[1]);
    std::vector<std::uint8_t> codes(floats.size());
    unpack(elements<std::uint32_t>(outputs[0]), codes);
    std::vector<float> restored(group_);
    std::array<float, 16> values_of{};  // of each code
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const auto part = std::span<const float>(floats).subspan(g * group_, group_);
      const MinMax range = min_max(part);
      float scale = 0.0f;
      const IntegerGrid grid = integer_grid(range, values.dtype, is_signed_, 4, scale);
      for (int nibble = 0; nibble < 16; ++nibble) {
        const int code = is_signed_ ? (nibble ^ 8) - 8 : nibble;
        values_of[static_cast<std::size_t>(nibble)] =
            static_cast<float>(grid_value(grid, scales[g], code));
      }
      for (std::uint64_t i = 0; i < group_; ++i) restored[i] = values_of[codes[g * group_ + i]];
      measure_part({part, restored, scales[g], grid_value(grid, scale, grid.low),
                    grid_value(grid, scale, grid.high), peak_of(range), true},
                   statistics);
    }
    return true;
  }

 private:
  // Eight rows at a time, and few enough columns that the words stay in the cache while all rows
  // are added: neighbours in the output are eight rows apart.
  static constexpr std::uint64_t kTile = 64;
  template <typename Fn>
  void for_each_tile(std::uint64_t rows, const Fn& fn) const {
    for (std::uint64_t column = 0; column < columns_; column += kTile) {
      for (std::uint64_t row = 0; row < rows; row += 8) {
        fn(row, std::min<std::uint64_t>(8, rows - row), column, std::min(kTile, columns_ - column));
      }
    }
  }

  void pack(std::span<const std::int8_t> codes, std::span<std::uint32_t> packed) const {
    const std::uint64_t rows = codes.size() / columns_;
    const std::uint64_t line = words(rows);
    for_each_tile(rows, [&](std::uint64_t row, std::uint64_t height, std::uint64_t column,
                            std::uint64_t width) {
      std::array<std::uint32_t, kTile> tile{};
      for (std::uint64_t r = 0; r < height; ++r) {
        const std::int8_t* from = codes.data() + (row + r) * columns_ + column;
        for (std::uint64_t c = 0; c < width; ++c) {
          tile[c] |= (static_cast<std::uint32_t>(from[c]) & 15u) << (4 * r);
        }
      }
      std::uint32_t* to = packed.data() + column * line + row / 8;
      for (std::uint64_t c = 0; c < width; ++c) to[c * line] = tile[c];
    });
  }

  // The nibbles as they are.
  void unpack(std::span<const std::uint32_t> packed, std::span<std::uint8_t> codes) const {
    const std::uint64_t rows = codes.size() / columns_;
    const std::uint64_t line = words(rows);
    for_each_tile(rows, [&](std::uint64_t row, std::uint64_t height, std::uint64_t column,
                            std::uint64_t width) {
      std::array<std::uint32_t, kTile> tile{};
      const std::uint32_t* from = packed.data() + column * line + row / 8;
      for (std::uint64_t c = 0; c < width; ++c) tile[c] = from[c * line];
      for (std::uint64_t r = 0; r < height; ++r) {
        std::uint8_t* to = codes.data() + (row + r) * columns_ + column;
        for (std::uint64_t c = 0; c < width; ++c) {
          to[c] = static_cast<std::uint8_t>(tile[c] >> (4 * r) & 15u);
        }
      }
    });
  }

  std::uint64_t columns_;
  std::uint64_t row_words_;
  bool is_signed_;
  std::uint64_t group_;
};

class Int4Fp8Encoder final : public WeightEncoder {
 public:
  explicit Int4Fp8Encoder(const WeightSource& source)
      : WeightEncoder({{source.name(),
                        DType::kI32,
                        {source.shape()[0], static_cast<std::int64_t>(words(columns_of(source)))}},
                       {source.name() + "_scale", DType::kF32, {}},
                       {source.name() + "_scale_2", DType::kF32, {source.shape()[0]}}}),
        columns_(columns_of(source)) {}

  std::uint64_t granularity() const override { return columns_; }
  OutputRegion output_region(std::size_t output, Range elements, bool last) const override {
    const std::uint64_t row = elements.begin / columns_;
    const std::uint64_t rows = elements.size() / columns_;
    if (output == 0) return {row * words(columns_) * 4, rows * words(columns_) * 4};
    if (output == 1) return {0, last ? sizeof(float) : 0};
    return {row * sizeof(float), rows * sizeof(float)};
  }

  bool needs_scan() const override { return true; }
  void scan(const WeightValues& values) override {
    std::vector<float> floats;
    widen(values, floats);
    range_.add(min_max(floats));
  }

  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    if (values.elements.size() == 0) return true;
    std::vector<float> floats;
    widen(values, floats);
    if (!min_max(floats).finite) return false;
    const float scale = fp8_scale(range_.get());
    std::vector<std::uint8_t> fp8(floats.size());
    e4m3_encode(floats, scale, quotient_type(values.dtype), fp8);
    std::ranges::transform(fp8, floats.begin(), e4m3_to_float);
    std::vector<std::int8_t> codes(columns_);
    const auto packed = elements<std::uint32_t>(outputs[0]);
    const auto row_scales = elements<float>(outputs[2]);
    for (std::size_t row = 0; row < row_scales.size(); ++row) {
      const auto part = std::span<const float>(floats).subspan(row * columns_, columns_);
      const IntegerGrid grid = integer_grid(min_max(part), DType::kF32, true, 4, row_scales[row]);
      integer_encode(part, grid, codes);
      pack_int4_row(codes, kReorder, packed.subspan(row * words(columns_), words(columns_)));
    }
    if (!outputs[1].empty()) std::memcpy(outputs[1].data(), &scale, sizeof(scale));
    return true;
  }

  bool measure(const WeightValues& values, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    std::vector<float> floats;
    widen(values, floats);
    const std::span<const std::uint32_t> packed = elements<std::uint32_t>(outputs[0]);
    const auto row_scales = elements<float>(outputs[2]);
    std::vector<std::int8_t> codes(columns_);
    std::vector<float> restored(columns_);
    for (std::size_t row = 0; row < row_scales.size(); ++row) {
      const auto part = std::span<const float>(floats).subspan(row * columns_, columns_);
      const float scale = row_scales[row] * fp8_scale(range_.get());
      unpack_int4_row(packed.subspan(row * words(columns_), words(columns_)), kReorder, true,
                      codes);
      std::ranges::transform(codes, restored.begin(),
                             [&](std::int8_t code) { return static_cast<float>(code) * scale; });
      measure_part({part, restored, scale, -8.0 * scale, 7.0 * scale, peak_of(min_max(part)), true},
                   statistics);
    }
    return true;
  }

 private:
  std::uint64_t columns_;
  TensorRange range_;
};

}  // namespace

std::unique_ptr<WeightEncoder> make_fp8_encoder(const WeightSource& source, ScaleOf scale_of) {
  return std::make_unique<Fp8Encoder>(source, scale_of);
}

std::unique_ptr<WeightEncoder> make_int8_encoder(const WeightSource& source) {
  return std::make_unique<Int8Encoder>(source);
}

std::unique_ptr<WeightEncoder> make_int4_row_encoder(const WeightSource& source, bool is_signed) {
  return std::make_unique<Int4RowEncoder>(source, is_signed);
}

std::unique_ptr<WeightEncoder> make_int4_group_encoder(const WeightSource& source, bool is_signed,
                                                       std::uint64_t group) {
  return std::make_unique<Int4GroupEncoder>(source, is_signed, group);
}

std::unique_ptr<WeightEncoder> make_int4_fp8_encoder(const WeightSource& source) {
  return std::make_unique<Int4Fp8Encoder>(source);
}

}  // namespace quern
