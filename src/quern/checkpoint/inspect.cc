// See inspect.h.
#include "quern/checkpoint/inspect.h"

#include "quern/base/error.h"
#include "quern/checkpoint/stored_values.h"

namespace quern {
namespace {

constexpr std::array<std::string_view, kNumModelParts> kPartNames{
    "embedding",      "head",           "attention", "indexer", "dense MLP",
    "routed experts", "shared experts", "router",    "norms",   "vision tower",
    "projector",      "merger",         "other",
};

struct Rule {
  std::string_view fragment;
  ModelPart part;
};

// The first fragment that a name contains decides: names of the release (vLLM minimax_m3 loader).
constexpr std::array kRules{
    Rule{"mtp.", ModelPart::kOther},
    Rule{"vision_tower.", ModelPart::kVisionTower},
    Rule{"multi_modal_projector.", ModelPart::kProjector},
    Rule{"patch_merge_mlp.", ModelPart::kMerger},
    Rule{"embed_tokens.", ModelPart::kEmbedding},
    Rule{"lm_head.", ModelPart::kHead},
    Rule{"norm.", ModelPart::kNorms},
    Rule{".self_attn.index_", ModelPart::kIndexer},
    Rule{".self_attn.", ModelPart::kAttention},
    Rule{".block_sparse_moe.experts.", ModelPart::kRoutedExperts},
    Rule{".block_sparse_moe.shared_experts.", ModelPart::kSharedExperts},
    Rule{".block_sparse_moe.", ModelPart::kRouter},
    Rule{".mlp.", ModelPart::kDenseMlp},
};

}  // namespace

std::string_view part_name(ModelPart part) { return kPartNames.at(static_cast<std::size_t>(part)); }

ModelPart part_of(std::string_view tensor) {
  for (const Rule& rule : kRules) {
    if (tensor.find(rule.fragment) != std::string_view::npos) return rule.part;
  }
  return ModelPart::kOther;
}

Tally& Tally::operator+=(const Tally& other) {
  tensors += other.tensors;
  parameters += other.parameters;
  elements += other.elements;
  bytes += other.bytes;
  return *this;
}

namespace {

bool stores_floats(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

// Of a quantized weight, which is there too.
bool is_scale(const Checkpoint& checkpoint, std::string_view name) {
  for (const std::string_view suffix : {"_scale", "_scale_2", "_scale_inv"}) {
    if (!name.ends_with(suffix)) continue;
    const TensorView* weight = checkpoint.find(name.substr(0, name.size() - suffix.size()));
    if (weight != nullptr) return !stores_floats(weight->dtype);
  }
  return false;
}

std::uint64_t parameters_of(const Checkpoint& checkpoint, const Checkpoint::Tensor& tensor) {
  if (is_scale(checkpoint, tensor.name)) return 0;
  if (const auto values = StoredValues::of(checkpoint, tensor.name)) {
    return static_cast<std::uint64_t>(num_elements(values->shape()));
  }
  const auto elements = static_cast<std::uint64_t>(tensor.view.size());
  const TensorView* scale = checkpoint.find(fmt::format("{}_scale", tensor.name));
  if (tensor.view.dtype != DType::kI32 || scale == nullptr) return elements;
  // uint4 has no values, because Quark leaves its zero points out, but eight codes in a word. With
  // groups [in, out / 8], the last word padded; the scales are [out, groups].
  if (scale->shape.size() != 2) return 8 * elements;
  return static_cast<std::uint64_t>(tensor.view.shape.front()) *
         static_cast<std::uint64_t>(scale->shape.front());
}

}  // namespace

Tally tally_of(const Checkpoint& checkpoint, const Checkpoint::Tensor& tensor) {
  return {1, parameters_of(checkpoint, tensor), static_cast<std::uint64_t>(tensor.view.size()),
          tensor.view.bytes()};
}

Tally Inspection::part(ModelPart part) const {
  Tally sum;
  for (const auto& [dtype, tally] : parts.at(static_cast<std::size_t>(part))) sum += tally;
  return sum;
}

std::map<DType, Tally> Inspection::dtypes() const {
  std::map<DType, Tally> sums;
  for (const auto& part : parts) {
    for (const auto& [dtype, tally] : part) sums[dtype] += tally;
  }
  return sums;
}

Tally Inspection::total() const {
  Tally sum;
  for (const auto& [dtype, tally] : dtypes()) sum += tally;
  return sum;
}

Inspection inspect(const Checkpoint& checkpoint) {
  Inspection inspection;
  for (const Checkpoint::Tensor& tensor : checkpoint.tensors()) {
    auto& part = inspection.parts.at(static_cast<std::size_t>(part_of(tensor.name)));
    part[tensor.view.dtype] += tally_of(checkpoint, tensor);
  }
  return inspection;
}

}  // namespace quern
