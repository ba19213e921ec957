// How one weight is written: the output tensors of a format and their bytes.
// Must never depend on how a tensor is cut into ranges.
// Proved by tests/quantize/weight_encoder_test.cc and the comparison with Quark's files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quern/quantize/tensor_kernel.h"
#include "quern/quantize/weight_source.h"

namespace quern {

// Values [elements.begin, elements.end) of a tensor, row-major, as bytes of `dtype` (BF16, F16,
// F32).
struct WeightValues {
  DType dtype = DType::kF32;
  Range elements;
  std::span<const std::byte> bytes;
};

class WeightEncoder {
 public:
  virtual ~WeightEncoder() = default;

  const std::vector<TensorSpec>& outputs() const { return outputs_; }
  // As WeightSource::granularity; of two granularities one divides the other.
  virtual std::uint64_t granularity() const = 0;
  // As the methods of TensorKernel, for elements. `last`: the range ends the tensor.
  virtual OutputRegion output_region(std::size_t output, Range elements, bool last) const = 0;
  virtual bool needs_scan() const { return false; }
  virtual void scan(const WeightValues& /*values*/) {}
  // False when a value is Inf or NaN; the outputs then mean nothing.
  [[nodiscard]] virtual bool encode(const WeightValues& values, OutputBytes outputs) const = 0;
  // As TensorKernel::measure.
  virtual bool measure(const WeightValues& /*values*/, OutputBytes /*outputs*/,
                       WeightStatistics& /*statistics*/) const {
    return false;
  }

 protected:
  explicit WeightEncoder(std::vector<TensorSpec> outputs) : outputs_(std::move(outputs)) {}

 private:
  std::vector<TensorSpec> outputs_;
};

// The weight in another floating point dtype; Inf and NaN pass.
std::unique_ptr<WeightEncoder> make_cast_encoder(const WeightSource& source, DType to);
// MXFP4: packed codes [..., in / 2] and scales [rows, in / 32] as Quark writes them.
std::unique_ptr<WeightEncoder> make_mxfp4_encoder(const WeightSource& source);

// All values as binary32.
void widen(const WeightValues& values, std::vector<float>& out);

// A kernel that reads a weight from `source` and writes it by `encoder`.
std::unique_ptr<TensorKernel> make_weight_kernel(std::unique_ptr<WeightSource> source,
                                                 std::unique_ptr<WeightEncoder> encoder);

}  // namespace quern
