// What a checkpoint holds: tensors, parameters and bytes by part of the model and by dtype.
// Must never read tensor data.
// Proved by tests/checkpoint/inspect_diff_test.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>

#include "quern/checkpoint/checkpoint.h"

namespace quern {

enum class ModelPart : std::uint8_t {
  kEmbedding,
  kHead,
  kAttention,
  kIndexer,
  kDenseMlp,
  kRoutedExperts,
  kSharedExperts,
  kRouter,
  kNorms,
  kVisionTower,
  kProjector,
  kMerger,
  kOther,
};
inline constexpr std::size_t kNumModelParts = 13;

std::string_view part_name(ModelPart part);
// The part that a tensor belongs to, by its name on disk.
ModelPart part_of(std::string_view tensor);

struct Tally {
  std::uint64_t tensors = 0;
  // Weights of the model: a byte of packed MXFP4 counts twice, a scale not at all. See
  // StoredValues.
  std::uint64_t parameters = 0;
  std::uint64_t elements = 0;  // as stored: what Hugging Face prints as "params"
  std::uint64_t bytes = 0;

  Tally& operator+=(const Tally& other);
};

// What one tensor adds.
Tally tally_of(const Checkpoint& checkpoint, const Checkpoint::Tensor& tensor);

struct Inspection {
  std::array<std::map<DType, Tally>, kNumModelParts> parts;  // by ModelPart

  Tally part(ModelPart part) const;
  std::map<DType, Tally> dtypes() const;
  Tally total() const;
};

Inspection inspect(const Checkpoint& checkpoint);

}  // namespace quern
