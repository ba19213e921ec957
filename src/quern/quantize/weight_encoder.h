// How one weight is written: the output tensors of a format and their bytes.
// Must never depend on how a tensor is cut into ranges.
// Proved by tests/quantize/quark_schemes_test.cc and the comparison with Quark's files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quern/numerics/minifloat.h"
#include "quern/numerics/scale_rule.h"
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

enum class ScaleOf : std::uint8_t { kTensor, kFirstDimension };

// The weight in another floating point dtype; Inf and NaN pass.
std::unique_ptr<WeightEncoder> make_cast_encoder(const WeightSource& source, DType to);
// Blocks of 32 with E8M0 scales: packed codes [..., in * bits / 8], scales [rows, in / 32].
std::unique_ptr<WeightEncoder> make_mxfp4_encoder(const WeightSource& source);
// By another scale rule; `importance` is empty or one weight for each column (see scale_rule.h) and
// must outlive the encoder.
std::unique_ptr<WeightEncoder> make_mxfp4_encoder(const WeightSource& source, ScaleRule rule,
                                                  std::span<const float> importance);
std::unique_ptr<WeightEncoder> make_mxfp6_encoder(const WeightSource& source,
                                                  const MiniFloat& element);
// E4M3 [...] and a F32 scale [] or one for each index of the first dimension.
std::unique_ptr<WeightEncoder> make_fp8_encoder(const WeightSource& source, ScaleOf scale_of);
// I8 [out, in] and a F32 scale [].
std::unique_ptr<WeightEncoder> make_int8_encoder(const WeightSource& source);
// Eight codes in an I32. With a scale per row [out, in / 8] and [out]; with groups along the input
// transposed: [in, out / 8], scales [out, in / group]. `is_signed` false: 0..15 with a zero point,
// which Quark does not write.
std::unique_ptr<WeightEncoder> make_int4_row_encoder(const WeightSource& source, bool is_signed);
std::unique_ptr<WeightEncoder> make_int4_group_encoder(const WeightSource& source, bool is_signed,
                                                       std::uint64_t group);
// E4M3 with a scale for the tensor, then int4 of that with a scale per row: I32 [out, in / 8] in
// the order 0 2 4 6 1 3 5 7, scales F32 [] and [out].
std::unique_ptr<WeightEncoder> make_int4_fp8_encoder(const WeightSource& source);
// E2M1 [..., in / 2], E4M3 scales [rows, in / 16], a F32 scale of the scales [].
std::unique_ptr<WeightEncoder> make_nvfp4_encoder(const WeightSource& source);

// All values as binary32.
void widen(const WeightValues& values, std::vector<float>& out);

// A kernel that reads a weight from `source` and writes it by `encoder`.
std::unique_ptr<TensorKernel> make_weight_kernel(std::unique_ptr<WeightSource> source,
                                                 std::unique_ptr<WeightEncoder> encoder);

}  // namespace quern
