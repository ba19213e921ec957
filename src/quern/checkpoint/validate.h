// The tensors that a config.json promises, and the proof that a checkpoint holds them.
// Must never accept a tensor whose shape or dtype contradicts the configuration.
// Proved by tests/checkpoint/validate_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/base/tensor_view.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"

namespace quern {

struct ExpectedTensor {
  enum class Kind { kFloat, kPackedMxfp4, kE8M0Scale };  // BF16, F16 or F32; U8; U8
  std::string name;
  Shape shape;
  Kind kind = Kind::kFloat;
};

// All tensors of a MiniMax-M3 checkpoint with this configuration, by their names on disk.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

// Throws an Error naming tensor, found and expected when one is absent, has another shape or dtype,
// or is not expected at all. Tensors with "mtp." in their name are ignored, without a vision_config
// also those of the vision part.
void validate_tensors(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace quern
