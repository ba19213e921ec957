// MiniMax-M3's vision tower with projector and merger: patches in, rows for the language model out.
// Must never look across pictures: the features of one do not depend on the others of the call.
// Proved by tests/model/vision_tower_test.cc (against transformers and the outputs published with
// m3-tiny).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/distributed/communicator.h"
#include "quern/kernels/backend.h"
#include "quern/model/sharding.h"
#include "quern/vision/preprocess.h"

namespace quern::model {

struct VisionLimits {
  // Of one pass (2,304 is a picture of 672 x 672); fixes the tower's memory. A picture has to fit
  // in one, of a video each segment (vision_segment_max_frames temporal steps).
  std::int64_t max_patches = 2304;
};

// The rank that encodes each image: the largest first, each to the rank with the fewest patches so
// far (ties: the lowest), as vLLM's --mm-encoder-tp-mode data.
std::vector<int> distribute_images(std::span<const std::int64_t> patches, int size);

// Not thread-safe: driven by the thread that drives the back end. A server without images makes
// none and resets ModelConfig::vision_config: nothing of the tower is then bound or checked
// (--language-model-only).
class VisionTower {
 public:
  // Whether the checkpoint has one: a text-only copy may keep the vision_config.
  static bool present(const Checkpoint& checkpoint, const ModelConfig& config);

  // Binds every tensor; an absent or unfit one is an Error that names it, as is a configuration
  // without vision_config. `checkpoint` and `backend` outlive the tower.
  // With several ranks each encodes the same images in the same calls, on its part of the weights,
  // or, data parallel, its part of the images, which `communicator` then brings together.
  VisionTower(const Checkpoint& checkpoint, const ModelConfig& config, kernels::Backend& backend,
              const VisionLimits& limits, const Sharding& sharding = {},
              Communicator* communicator = nullptr);
  ~VisionTower();

  int hidden_size() const;  // of a feature row: the language model's

  // features [sum of num_tokens, hidden_size], the images one behind the other. Host memory, so
  // that a cache of features is ordinary memory on every device; the values are those of the back
  // end's activations (BF16 in float). They go to TextModel::forward() as SequenceChunk::features.
  // Patches that do not fit the tower or its limits are an Error.
  void encode(std::span<const vision::ImagePatches* const> images, std::span<float> features);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::model
