// A checkpoint's text model in this process, asked for the logits of every position of a text.
// Must never hold a whole text's logits: they are handed on chunk by chunk.
// Proved by tests/eval/divergence_test.cc (against NumPy).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>

#include "quern/checkpoint/model_config.h"
#include "quern/eval/sample.h"
#include "quern/kernels/factory.h"

namespace quern {

struct LogitModelOptions {
  kernels::MoeBackend moe_backend = kernels::MoeBackend::kNative;
  int threads = 0;                      // 0 = one per core
  bool unrounded_reference = false;     // the naive back end without rounding, for tests
  std::size_t logits_bytes = 64 << 20;  // of one chunk
};

// What is seen of consecutive tokens, the first of which is token `first` of the text. A function
// that is absent costs nothing.
struct TextObserver {
  // The residual stream after a layer, [tokens, hidden_size].
  std::function<void(int layer, std::size_t first, std::span<const float> hidden)> on_hidden;
  // [tokens, experts_per_token].
  std::function<void(int layer, std::size_t first, std::span<const std::int32_t> experts)>
      on_experts;
  // [tokens, num_kv_heads, topk_blocks], -1 behind the last.
  std::function<void(int layer, std::size_t first, std::span<const std::int32_t> blocks)> on_blocks;
  // [tokens, vocab_size]; last of all.
  std::function<void(std::size_t first, std::span<const float> logits)> on_logits;
};

// Not thread-safe.
class LogitModel {
 public:
  explicit LogitModel(const std::filesystem::path& directory,
                      const LogitModelOptions& options = {});
  ~LogitModel();

  const TextConfig& config() const;
  std::size_t vocab_size() const;
  // Identity of the checkpoint (Checkpoint::content_hash).
  const std::string& fingerprint() const;

  // Throws Error when a token is outside the vocabulary.
  void run(std::span<const std::int32_t> tokens, const TextObserver& observer);

  // Of the tokens from `context` on (at least 1), each behind all before it.
  Loglikelihood loglikelihood(std::span<const std::int32_t> tokens, std::size_t context);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// log(sum(exp(logits))) in double precision.
double log_sum_exp(std::span<const float> logits);

}  // namespace quern
