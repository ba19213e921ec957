// What the engine needs of a model: one step over chunks of sequences. The real ones are
// ModelHost's and RemoteRunner;
// tests drive the engine with a model that is a hash.
// Must never keep state of a sequence outside the paged cache.
// Proved by tests/engine/engine_loop_test.cc and tests/engine/batch_invariance_test.cc.
#pragma once

#include <cstddef>
#include <span>

#include "quern/model/text_model.h"
#include "quern/vision/preprocess.h"

namespace quern::engine {

class StepRunner {
 public:
  virtual ~StepRunner() = default;

  virtual int vocab_size() const = 0;
  // Floats of a feature row; 0 = the model takes no images.
  virtual std::size_t feature_size() const = 0;
  // The features of images, one behind the other, [sum of num_tokens, feature_size].
  virtual void encode(std::span<const vision::ImagePatches* const> images,
                      std::span<float> features) = 0;
  // `logits` [chunks with wants_logits, vocabulary]: of the last token of each, in order.
  virtual void run(std::span<const model::SequenceChunk> chunks, std::span<float> logits) = 0;
  // `logits` [tokens, vocabulary] of any tokens of the last run(), by their number in the step (its
  // chunks laid end to end).
  virtual void logits_of(std::span<const std::int32_t> tokens, std::span<float> logits) = 0;
};

}  // namespace quern::engine
