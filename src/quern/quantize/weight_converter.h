// Fused tensors taken apart before quantization: equal chunks, or experts out of a stack.
// Must never copy weights: a part is a view of its source.
// Proved by tests/quantize/source_test.cc and the comparison with Quark's files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quern/quantize/weight_source.h"

namespace quern {

// Quark's WeightConverter with one source pattern: a tensor whose name ends in `source` becomes one
// tensor a target.
struct WeightConverter {
  enum class Operation : std::uint8_t { kChunk, kSplitFusedExperts };

  std::string source;
  std::vector<std::string> targets;
  Operation operation = Operation::kSplitFusedExperts;
  // Chunk: of the tensor; SplitFusedExperts: of one expert's matrix. Negative: from the end.
  int axis = 0;
};

// The first converter that matches the name; nullptr for none.
const WeightConverter* find_converter(const std::vector<WeightConverter>& converters,
                                      const std::string& tensor);

// The parts in Quark's order. Throws an Error naming the tensor when it has another form.
std::vector<std::unique_ptr<WeightSource>> convert(const WeightConverter& converter,
                                                   std::unique_ptr<WeightSource> source);

}  // namespace quern
