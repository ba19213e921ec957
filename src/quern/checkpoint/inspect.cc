// See inspect.h.
#include "quern/checkpoint/inspect.h"

#include "quern/base/error.h"

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

Tally tally_of(const Checkpoint& checkpoint, const Checkpoint::Tensor& tensor) {
  constexpr std::string_view kScale = "_scale";
  const auto elements = static_cast<std::uint64_t>(tensor.view.size());
  std::uint64_t parameters = elements;
  if (tensor.name.ends_with(".weight_scale")) {
    const std::string_view weight = tensor.name.substr(0, tensor.name.size() - kScale.size());
    if (checkpoint.find(weight) != nullptr) parameters = 0;
  } else if (tensor.view.dtype == DType::kU8 && tensor.name.ends_with(".weight") &&
             checkpoint.find(fmt::format("{}{}", tensor.name, kScale)) != nullptr) {
    parameters = 2 * elements;
  }
  return {1, parameters, elements, tensor.view.bytes()};
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
