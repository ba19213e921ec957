// See tensor_kernel.h.
#include "quern/quantize/tensor_kernel.h"

#include <algorithm>

#include "quern/base/error.h"

namespace quern {
namespace {

class CopyKernel final : public TensorKernel {
 public:
  CopyKernel(KernelInput input, TensorSpec output)
      : inputs_{std::move(input)}, outputs_{std::move(output)} {}

  const std::vector<KernelInput>& inputs() const override { return inputs_; }
  const std::vector<TensorSpec>& outputs() const override { return outputs_; }
  std::uint64_t units() const override { return inputs_.front().tensor.bytes(); }
  Range input_range(std::size_t, Range units) const override { return units; }
  OutputRegion output_region(std::size_t, Range units) const override {
    return {units.begin, units.size()};
  }
  void run(Range, InputBytes inputs, OutputBytes outputs) const override {
    std::ranges::copy(inputs[0], outputs[0].begin());
  }
  bool copies() const override { return true; }

 private:
  std::vector<KernelInput> inputs_;
  std::vector<TensorSpec> outputs_;
};

}  // namespace

std::uint64_t TensorKernel::bytes_of(Range units) const {
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < inputs().size(); ++i) bytes += input_range(i, units).size();
  for (std::size_t i = 0; i < outputs().size(); ++i) bytes += output_region(i, units).bytes();
  return bytes;
}

std::unique_ptr<TensorKernel> make_copy_kernel(KernelInput input, TensorSpec output) {
  QUERN_CHECK(input.tensor.bytes() ==
              static_cast<std::uint64_t>(num_elements(output.shape)) * dtype_bytes(output.dtype));
  return std::make_unique<CopyKernel>(std::move(input), std::move(output));
}

}  // namespace quern
