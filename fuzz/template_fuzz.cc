// A file of --template: YAML with patterns and weight converters, which are applied to names and
// weights. Must never give a part of a weight that lies outside of it. Proved by Fuzz.template and
// by running it under libFuzzer (fuzz/README.md).
#include "fuzz/fuzz_target.h"
#include "quern/quantize/fnmatch.h"
#include "quern/quantize/template.h"

namespace {

using namespace quern;

// A BF16 weight that nothing but its shape is asked of.
std::unique_ptr<WeightSource> weight(const std::string& name, const Shape& shape) {
  KernelInput input{"file", {name, DType::kBF16, shape, 0, 0}};
  input.tensor.end = static_cast<std::uint64_t>(num_elements(shape)) * 2;
  return make_plain_source(input);
}

void take_apart(const WeightConverter& converter, const Shape& shape) {
  fuzz::accepts([&] {
    auto whole = weight("model.layers.0." + converter.source, shape);
    const std::uint64_t bytes = whole->inputs()[0].tensor.bytes();
    std::uint64_t elements = 0;
    for (const auto& part : convert(converter, std::move(whole))) {
      const Range range = part->input_range(0, {0, part->elements()});
      QUERN_CHECK(range.begin <= range.end && range.end <= bytes);
      elements += part->elements();
    }
    QUERN_CHECK(elements * 2 == bytes);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::accepts([&] {
    for (const ModelTemplate& entry : parse_templates(fuzz::text_of(data, size), "t.yaml")) {
      for (const std::string& pattern : entry.exclude_layers_name) {
        fnmatch("model.layers.12.self_attn.q_proj", pattern);
      }
      for (const WeightConverter& converter : entry.weight_converters) {
        take_apart(converter, {3, 4, 64});
        take_apart(converter, {6, 32});
        take_apart(converter, {5});
      }
    }
  });
  return 0;
}
