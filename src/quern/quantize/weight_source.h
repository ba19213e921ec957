// A weight as floating point values, whatever form the source checkpoint stores it in.
// Must never hold state between calls; element ranges come from any thread in any order.
// Proved by tests/quantize/source_test.cc.
#pragma once

#include <memory>
#include <vector>

#include "quern/quantize/tensor_kernel.h"

namespace quern {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // The weight's own name, dtype (BF16, F16 or F32) and shape once it is restored.
  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::uint64_t elements() const { return static_cast<std::uint64_t>(num_elements(shape_)); }
  const std::vector<KernelInput>& inputs() const { return inputs_; }

  // Element ranges begin and end at multiples of it (or at the end of the tensor).
  virtual std::uint64_t granularity() const = 0;
  // As TensorKernel::input_range, for elements in row-major order.
  virtual Range input_range(std::size_t input, Range elements) const = 0;
  // The values of the elements as bytes of dtype(): a view of `inputs`, or of `scratch` after
  // filling it.
  virtual std::span<const std::byte> read(Range elements, InputBytes inputs,
                                          std::vector<std::byte>& scratch) const = 0;

 protected:
  WeightSource(std::string name, DType dtype, Shape shape, std::vector<KernelInput> inputs)
      : name_(std::move(name)),
        dtype_(dtype),
        shape_(std::move(shape)),
        inputs_(std::move(inputs)) {}

 private:
  std::string name_;
  DType dtype_;
  Shape shape_;
  std::vector<KernelInput> inputs_;
};

// BF16, F16 or F32 as it is.
std::unique_ptr<WeightSource> make_plain_source(KernelInput input);

}  // namespace quern
