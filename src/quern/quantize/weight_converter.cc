// See weight_converter.h. Source: AMD Quark 0.13, quantization/weight_convert.py.
#include "quern/quantize/weight_converter.h"

#include <algorithm>
#include <cstring>

#include "quern/base/error.h"

namespace quern {
namespace {

// Rows [first_row, ...) and columns [first_column, ...) of a source, seen as [rows, columns].
class SliceSource final : public WeightSource {
 public:
  SliceSource(std::shared_ptr<const WeightSource> whole, std::string name, Shape shape,
              std::uint64_t first_row, std::uint64_t first_column)
      : WeightSource(std::move(name), whole->dtype(), std::move(shape), whole->inputs()),
        whole_(std::move(whole)),
        first_row_(first_row),
        first_column_(first_column),
        columns_(static_cast<std::uint64_t>(this->shape().back())),
        whole_columns_(static_cast<std::uint64_t>(whole_->shape().back())) {}

  // Whole rows are contiguous in the source; parts of rows are cut out of them.
  std::uint64_t granularity() const override {
    return columns_ == whole_columns_ ? whole_->granularity()
                                      : std::max<std::uint64_t>(columns_, 1);
  }
  Range input_range(std::size_t input, Range elements) const override {
    return whole_->input_range(input, in_whole(elements));
  }
  std::span<const std::byte> read(Range elements, InputBytes inputs,
                                  std::vector<std::byte>& scratch) const override {
    if (columns_ == whole_columns_) return whole_->read(in_whole(elements), inputs, scratch);
    std::vector<std::byte> whole_scratch;
    const auto rows = whole_->read(in_whole(elements), inputs, whole_scratch);
    const std::uint64_t bytes = dtype_bytes(dtype());
    scratch.resize(elements.size() * bytes);
    for (std::uint64_t row = 0; row < elements.size() / columns_; ++row) {
      std::memcpy(scratch.data() + row * columns_ * bytes,
                  rows.data() + (row * whole_columns_ + first_column_) * bytes, columns_ * bytes);
    }
    return scratch;
  }

 private:
  Range in_whole(Range elements) const {
    if (columns_ == whole_columns_) {
      const std::uint64_t offset = first_row_ * whole_columns_;
      return {offset + elements.begin, offset + elements.end};
    }
    return {(first_row_ + elements.begin / columns_) * whole_columns_,
            (first_row_ + elements.end / columns_) * whole_columns_};
  }

  std::shared_ptr<const WeightSource> whole_;
  std::uint64_t first_row_;
  std::uint64_t first_column_;
  std::uint64_t columns_;
  std::uint64_t whole_columns_;
};

[[noreturn]] void fail(const WeightSource& source, std::string_view problem) {
  throw Error("tensor '{}' {}: {}", source.name(), shape_text(source.shape()), problem);
}

std::size_t positive_axis(const WeightSource& source, int axis, std::size_t dimensions) {
  const int count = static_cast<int>(dimensions);
  const int positive = axis < 0 ? axis + count : axis;
  if (positive < 0 || positive >= count) {
    fail(source, fmt::format("the axis {} of its weight converter is out of range", axis));
  }
  return static_cast<std::size_t>(positive);
}

// One part of a matrix [rows, columns] (leading dimensions of `shape` are rows) cut along its first
// or last dimension.
struct Cut {
  std::shared_ptr<const WeightSource> whole;
  Shape shape;              // of what is cut
  std::uint64_t first_row;  // of it within the whole
  std::size_t axis;

  std::unique_ptr<WeightSource> part(std::string name, std::int64_t begin,
                                     std::int64_t size) const {
    Shape part_shape = shape;
    part_shape[axis] = size;
    std::uint64_t row = first_row;
    std::uint64_t column = 0;
    if (axis + 1 == shape.size()) {
      column = static_cast<std::uint64_t>(begin);
    } else if (axis == 0) {
      const Shape inner(shape.begin() + 1, shape.end() - 1);
      row += static_cast<std::uint64_t>(begin * num_elements(inner));
    } else {
      fail(*whole, "a weight converter can cut the first or the last dimension");
    }
    return std::make_unique<SliceSource>(whole, std::move(name), std::move(part_shape), row,
                                         column);
  }
};

std::vector<std::unique_ptr<WeightSource>> chunk(const WeightConverter& converter,
                                                 const std::string& prefix,
                                                 std::shared_ptr<const WeightSource> whole) {
  std::vector<std::unique_ptr<WeightSource>> parts;
  const auto count = static_cast<std::int64_t>(converter.targets.size());
  if (count < 2) fail(*whole, "Chunk needs two or more targets");
  if (whole->shape().size() < 2) fail(*whole, "Chunk needs a matrix");
  const Cut cut{whole, whole->shape(), 0,
                positive_axis(*whole, converter.axis, whole->shape().size())};
  // torch.chunk: equal parts, the last one smaller.
  const std::int64_t size = cut.shape[cut.axis];
  const std::int64_t step = std::max<std::int64_t>(1, (size + count - 1) / count);
  for (std::int64_t begin = 0; begin < size; begin += step) {
    const std::string& target = converter.targets[parts.size()];
    parts.push_back(cut.part(prefix + target, begin, std::min(step, size - begin)));
  }
  return parts;
}

std::vector<std::unique_ptr<WeightSource>> split_experts(
    const WeightConverter& converter, const std::string& prefix,
    std::shared_ptr<const WeightSource> whole) {
  const Shape& shape = whole->shape();
  const std::size_t targets = converter.targets.size();
  if (shape.size() != 3) fail(*whole, "expected a fused expert tensor of three dimensions");
  if (targets != 1 && targets != 2) {
    fail(*whole, fmt::format("expected 1 or 2 targets of its weight converter, found {}", targets));
  }
  const Shape expert = {shape[1], shape[2]};
  const std::size_t axis = positive_axis(*whole, converter.axis, 2);
  if (targets == 2 && expert[axis] % 2 != 0) fail(*whole, "the dimension to halve is odd");
  std::vector<std::unique_ptr<WeightSource>> parts;
  for (std::int64_t e = 0; e < shape[0]; ++e) {
    const Cut cut{whole, expert, static_cast<std::uint64_t>(e * shape[1]), axis};
    const std::int64_t size = expert[axis] / static_cast<std::int64_t>(targets);
    for (std::size_t t = 0; t < targets; ++t) {
      parts.push_back(cut.part(fmt::format("{}{}.{}", prefix, e, converter.targets[t]),
                               static_cast<std::int64_t>(t) * size, size));
    }
  }
  return parts;
}

}  // namespace

const WeightConverter* find_converter(const std::vector<WeightConverter>& converters,
                                      const std::string& tensor) {
  const auto found = std::ranges::find_if(
      converters, [&](const WeightConverter& c) { return tensor.ends_with(c.source); });
  return found == converters.end() ? nullptr : &*found;
}

std::vector<std::unique_ptr<WeightSource>> convert(const WeightConverter& converter,
                                                   std::unique_ptr<WeightSource> source) {
  const std::string& name = source->name();
  const std::string prefix = name.substr(0, name.size() - converter.source.size());
  const std::shared_ptr<const WeightSource> whole = std::move(source);
  return converter.operation == WeightConverter::Operation::kChunk
             ? chunk(converter, prefix, whole)
             : split_experts(converter, prefix, whole);
}

}  // namespace quern
