// A quantized source: config.json, a NUL, then a tensor a line (name, dtype, shape); what the
// quantizer makes of each tensor, and making it of bytes of zero. Must never read or write outside
// of a tensor, whatever the text claims. Proved by Fuzz.source and by running it under libFuzzer
// (fuzz/README.md).
#include <algorithm>
#include <sstream>

#include "fuzz/fuzz_target.h"
#include "quern/quantize/scheme.h"
#include "quern/quantize/source_formats.h"

namespace {

using namespace quern;

constexpr std::uint64_t kMaxRunBytes = 1u << 12;
constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 50;

std::vector<std::vector<std::byte>> zeros(const TensorKernel& kernel, Range units) {
  std::vector<std::vector<std::byte>> buffers;
  for (std::size_t i = 0; i < kernel.inputs().size(); ++i) {
    const Range range = kernel.input_range(i, units);
    QUERN_CHECK(range.begin <= range.end && range.end <= kernel.inputs()[i].tensor.bytes());
    buffers.emplace_back(range.size());
  }
  return buffers;
}

// A range of units, when its bytes are few.
void run(TensorKernel& kernel, Range units) {
  for (std::size_t i = 0; i < kernel.inputs().size(); ++i) {
    if (kernel.input_range(i, units).size() > kMaxRunBytes) return;
  }
  const auto inputs = zeros(kernel, units);
  const std::vector<std::span<const std::byte>> in(inputs.begin(), inputs.end());
  if (kernel.needs_scan()) kernel.scan(units, in);
  std::vector<std::vector<std::byte>> outputs;
  for (std::size_t i = 0; i < kernel.outputs().size(); ++i) {
    const TensorSpec& spec = kernel.outputs()[i];
    const std::uint64_t bytes =
        static_cast<std::uint64_t>(num_elements(spec.shape)) * dtype_bytes(spec.dtype);
    const OutputRegion region = kernel.output_region(i, units);
    QUERN_CHECK(region.bytes() == 0 ||
                region.offset + (region.lines - 1) * region.stride + region.line_bytes <= bytes);
    outputs.emplace_back(region.bytes());
  }
  const std::vector<std::span<std::byte>> out(outputs.begin(), outputs.end());
  kernel.run(units, in, out);
  WeightStatistics statistics;
  kernel.measure(units, in, out, statistics);
}

void quantize(const SourceFormats& formats, const KernelInput& stored, const Scheme& scheme) {
  fuzz::accepts([&] {
    auto source = formats.restore(stored);
    if (source == nullptr || source->shape().size() < 2 || source->elements() == 0) return;
    if (!refusal(scheme, source->shape()).empty()) return;
    auto encoder = make_encoder(scheme, *source);
    const auto kernel = make_weight_kernel(std::move(source), std::move(encoder));
    const std::uint64_t units = kernel->units();
    if (kernel->needs_scan()) return run(*kernel, {0, units});
    run(*kernel, {0, 1});
    run(*kernel, {units - 1, units});
  });
}

void keep(const SourceFormats& formats, const KernelInput& stored) {
  fuzz::accepts([&] {
    if (!formats.keep(stored).empty()) formats.kept_layer_config("module", stored);
  });
}

// "NAME DTYPE SIZE SIZE ...", a tensor a line; a line of another form ends the list.
TensorDirectory parse_tensors(const std::string& text) {
  TensorDirectory tensors;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    TensorInfo info;
    std::string dtype;
    words >> info.name >> dtype;
    const auto known = dtype_from_name(dtype);
    if (!known) break;
    info.dtype = *known;
    for (std::int64_t size = 0; words >> size;) info.shape.push_back(size);
    // The header's affair: a tensor lies in a file.
    if (!fuzz::accepts([&] { num_elements(info.shape); })) break;
    const auto elements = static_cast<std::uint64_t>(num_elements(info.shape));
    if (elements > kMaxElements) break;
    info.end = elements * dtype_bytes(info.dtype);
    tensors[info.name] = {"/dev/null", info};
  }
  return tensors;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  const std::size_t nul = std::min(text.find('\0'), size);
  const TensorDirectory tensors = parse_tensors(std::string(text.substr(std::min(nul + 1, size))));
  fuzz::accepts([&] {
    const Json config = parse_json(text.substr(0, nul), "config.json");
    if (!config.is_object()) return;  // refused before it gets here
    const SourceFormats formats(config, tensors, {}, DType::kBF16);
    for (const auto& [name, stored] : tensors) {
      // One a tensor: a weight restored once is enough work for one input.
      const auto schemes = supported_schemes();
      quantize(formats, stored, schemes[name.size() % schemes.size()]);
      keep(formats, stored);
    }
  });
  return 0;
}
