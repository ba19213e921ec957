// The work on one tensor of the output, as the pipeline sees it: bytes of a range of units in,
// bytes of each output tensor out. Must never open a file or keep more than a few bytes a row
// between calls. Proved by tests/quantize/quark_schemes_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "quern/checkpoint/safetensors.h"
#include "quern/numerics/weight_statistics.h"

namespace quern {

struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  std::uint64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// A tensor of a source file; scales may lie in another shard than the weight.
struct KernelInput {
  std::filesystem::path file;
  TensorInfo tensor;
};

// Where bytes lie in an output tensor: `lines` lines of `line_bytes`, `stride` bytes apart. More
// than one line only where a format transposes (Quark's int4 with groups).
struct OutputRegion {
  std::uint64_t offset = 0;
  std::uint64_t line_bytes = 0;
  std::uint64_t lines = 1;
  std::uint64_t stride = 0;

  std::uint64_t bytes() const { return line_bytes * lines; }
};

using InputBytes = std::span<const std::span<const std::byte>>;
using OutputBytes = std::span<const std::span<std::byte>>;

// A tensor is units() units (blocks, rows, groups of rows: the kernel's affair); any cut into
// ranges of units gives the same output. Methods may be called from several threads at once. Spans
// that are handed in have exactly the sizes asked for and are aligned for the tensor's dtype.
class TensorKernel {
 public:
  virtual ~TensorKernel() = default;

  virtual const std::vector<KernelInput>& inputs() const = 0;
  virtual const std::vector<TensorSpec>& outputs() const = 0;
  virtual std::uint64_t units() const = 0;

  // The bytes of inputs()[input], counted from the tensor's first, that a range of units needs.
  virtual Range input_range(std::size_t input, Range units) const = 0;
  // The place of what run() makes of a range of units. What a whole tensor has once (a scale per
  // tensor) belongs to the range that ends at units(); other ranges give it zero bytes.
  virtual OutputRegion output_region(std::size_t output, Range units) const = 0;

  // When true every unit must go through scan() before the first run(): the largest magnitude of a
  // tensor, for example. Scanning twice does no harm.
  virtual bool needs_scan() const { return false; }
  virtual void scan(Range /*units*/, InputBytes /*inputs*/) {}

  // Fills outputs[i], the lines of output_region(i, units) one behind the other. Throws an Error
  // that names tensor and index for a value that cannot be quantized.
  virtual void run(Range units, InputBytes inputs, OutputBytes outputs) const = 0;

  // Adds what a range of units lost, from what run() was given and made. False when the format has
  // no statistics.
  virtual bool measure(Range /*units*/, InputBytes /*inputs*/, OutputBytes /*outputs*/,
                       WeightStatistics& /*statistics*/) const {
    return false;
  }

  // True when outputs()[0] is inputs()[0] byte for byte: run() need not be called.
  virtual bool copies() const { return false; }

  // Bytes in and out of a range of units, for sizing pieces.
  std::uint64_t bytes_of(Range units) const;
  // The most memory that work on a range takes, its bytes in and out included.
  virtual std::uint64_t working_bytes(Range units) const { return bytes_of(units); }
};

// The tensor as it is, under another name or dtype label perhaps.
std::unique_ptr<TensorKernel> make_copy_kernel(KernelInput input, TensorSpec output);

}  // namespace quern
