// See weight_source.h.
#include "quern/quantize/weight_source.h"

#include "quern/base/error.h"

namespace quern {
namespace {

class PlainSource final : public WeightSource {
 public:
  explicit PlainSource(KernelInput input)
      : WeightSource(input.tensor.name, input.tensor.dtype, input.tensor.shape, {input}) {}

  std::uint64_t granularity() const override { return 1; }
  Range input_range(std::size_t, Range elements) const override {
    const std::uint64_t bytes = dtype_bytes(dtype());
    return {elements.begin * bytes, elements.end * bytes};
  }
  std::span<const std::byte> read(Range, InputBytes inputs,
                                  std::vector<std::byte>&) const override {
    return inputs[0];
  }
};

}  // namespace

std::unique_ptr<WeightSource> make_plain_source(KernelInput input) {
  return std::make_unique<PlainSource>(std::move(input));
}

}  // namespace quern
