// The kernel that joins a source and an encoder; see weight_encoder.h.
#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/quantize/weight_encoder.h"

namespace quern {
namespace {

// An element at most: restored, widened and restored again as binary32, and its code.
constexpr std::uint64_t kScratchBytes = 13;

class WeightKernel final : public TensorKernel {
 public:
  WeightKernel(std::unique_ptr<WeightSource> source, std::unique_ptr<WeightEncoder> encoder)
      : source_(std::move(source)),
        encoder_(std::move(encoder)),
        unit_(std::max(source_->granularity(), encoder_->granularity())) {
    QUERN_CHECK(unit_ % source_->granularity() == 0 && unit_ % encoder_->granularity() == 0);
  }

  const std::vector<KernelInput>& inputs() const override { return source_->inputs(); }
  const std::vector<TensorSpec>& outputs() const override { return encoder_->outputs(); }
  std::uint64_t units() const override { return (source_->elements() + unit_ - 1) / unit_; }
  Range input_range(std::size_t input, Range units) const override {
    return source_->input_range(input, elements_of(units));
  }
  OutputRegion output_region(std::size_t output, Range units) const override {
    return encoder_->output_region(output, elements_of(units), units.end == this->units());
  }
  bool needs_scan() const override { return encoder_->needs_scan(); }
  std::uint64_t working_bytes(Range units) const override {
    return bytes_of(units) + kScratchBytes * elements_of(units).size();
  }

  void scan(Range units, InputBytes inputs) override {
    std::vector<std::byte> scratch;
    encoder_->scan(values_of(units, inputs, scratch));
  }

  void run(Range units, InputBytes inputs, OutputBytes outputs) const override {
    std::vector<std::byte> scratch;
    const WeightValues values = values_of(units, inputs, scratch);
    if (!encoder_->encode(values, outputs)) throw_not_finite(values);
  }

  bool measure(Range units, InputBytes inputs, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    std::vector<std::byte> scratch;
    return encoder_->measure(values_of(units, inputs, scratch), outputs, statistics);
  }

 private:
  Range elements_of(Range units) const {
    return {std::min(units.begin * unit_, source_->elements()),
            std::min(units.end * unit_, source_->elements())};
  }

  WeightValues values_of(Range units, InputBytes inputs, std::vector<std::byte>& scratch) const {
    const Range elements = elements_of(units);
    return {source_->dtype(), elements, source_->read(elements, inputs, scratch)};
  }

  [[noreturn]] void throw_not_finite(const WeightValues& values) const {
    std::vector<float> floats;
    widen(values, floats);
    const auto bad =
        std::find_if(floats.begin(), floats.end(), [](float v) { return !std::isfinite(v); });
    QUERN_CHECK(bad != floats.end());
    std::uint64_t rest = values.elements.begin + static_cast<std::uint64_t>(bad - floats.begin());
    Shape index(source_->shape().size());
    for (std::size_t d = index.size(); d-- > 0;) {
      const auto size = static_cast<std::uint64_t>(source_->shape()[d]);
      index[d] = static_cast<std::int64_t>(rest % size);
      rest /= size;
    }
    throw Error("tensor '{}' holds {} at index {}; a weight to be quantized must be finite",
                source_->name(), std::isnan(*bad) ? "NaN" : "Inf", shape_text(index));
  }

  std::unique_ptr<WeightSource> source_;
  std::unique_ptr<WeightEncoder> encoder_;
  std::uint64_t unit_;  // elements
};

}  // namespace

std::unique_ptr<TensorKernel> make_weight_kernel(std::unique_ptr<WeightSource> source,
                                                 std::unique_ptr<WeightEncoder> encoder) {
  return std::make_unique<WeightKernel>(std::move(source), std::move(encoder));
}

}  // namespace quern
