// MiniMax-M3's text decoder: binds a checkpoint's tensors and runs one step over any mix of
// sequences. Must never touch device memory or hold state of a sequence: that is the KV cache's and
// the engine's. Proved by tests/model/text_model_test.cc (against references that were written
// independently).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/kernels/backend.h"
#include "quern/model/sharding.h"

namespace quern::model {

// Rows that take the place of the embeddings of image placeholders.
struct FeatureRows {
  std::int32_t offset = 0;      // of the first row, in the chunk's tokens
  std::span<const float> rows;  // [n, hidden_size]: all or a part of an image's features
};

// Consecutive tokens of one sequence in a step: a prompt chunk or one decoded token.
struct SequenceChunk {
  std::span<const std::int32_t> token_ids;
  std::int32_t start_position = 0;             // of token_ids[0]
  std::span<const std::int32_t> block_table;   // block ids for positions 0 .. start + size - 1
  bool wants_logits = true;                    // of the last token of the chunk
  std::span<const FeatureRows> features = {};  // usually none; inside the chunk, not overlapping
};

// Observes a forward pass (tests and tools). `layer` -1 is the embedding.
struct ForwardTrace {
  // The residual stream after the layer, one call a layer, row of the last token of the step.
  std::function<void(int layer, std::span<const float> hidden)> on_hidden;
  // The same for every token of the step, [tokens, hidden_size].
  std::function<void(int layer, std::span<const float> hidden)> on_all_hidden;
  // [tokens, experts_per_token].
  std::function<void(int layer, std::span<const std::int32_t> experts)> on_routing;
  // [tokens, num_kv_heads of this rank, topk_blocks].
  std::function<void(int layer, std::span<const std::int32_t> blocks)> on_selection;
  // Also logits of every token of the step, [tokens, vocabulary].
  std::function<void(std::span<const float> logits)> on_all_logits;
};

struct ModelLimits {
  int max_step_tokens = 2048;
  int max_step_sequences = 256;
};

// The KV cache of a rank.
kernels::KvCacheSpec kv_cache_spec(const TextConfig& config, const Sharding& sharding,
                                   int num_blocks);

class TextModel {
 public:
  // Binds every tensor; an absent or unfit one is an Error that names it. `checkpoint` and
  // `backend` outlive the model.
  // With several ranks each runs the same steps on its part of the weights, and `backend` has a
  // communicator of them.
  TextModel(const Checkpoint& checkpoint, const ModelConfig& config, kernels::Backend& backend,
            const ModelLimits& limits, const Sharding& sharding = {});
  ~TextModel();

  const TextConfig& config() const;
  int vocab_size() const;
  kernels::KvCacheSpec kv_cache_spec(int num_blocks) const;

  // Runs the chunks as one step. `logits` is [chunks with wants_logits, vocab_size], in order; on
  // ranks other than 0 it is empty. Sum
  // of tokens and number of chunks are within the limits. The result for a chunk does not depend on
  // the others, on how a prompt is cut into chunks, or on the number of threads.
  void forward(std::span<const SequenceChunk> chunks, kernels::KvCache& cache,
               std::span<float> logits, const ForwardTrace* trace = nullptr);

  // `logits` [tokens, vocab_size] of any tokens of the last forward(), by their number in the step.
  void logits(std::span<const std::int32_t> tokens, std::span<float> logits);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::model
