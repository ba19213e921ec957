// A MiniMax-M3 checkpoint with random weights, to measure speed at the model's true widths without
// its 243 GB: as many layers, experts and words as wanted, loadable by every command.
// Must never hold more than its buffer in memory, nor be loadable (config.json) before it is whole.
// Proved by tests/bench/random_checkpoint_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "quern/base/json.h"
#include "quern/checkpoint/validate.h"

namespace quern::bench {

// Names and defaults are those of MiniMax-M3's config.json, but for the first four.
struct RandomCheckpointOptions {
  std::int64_t dense_layers = 1;   // full attention and a dense MLP
  std::int64_t sparse_layers = 3;  // block-sparse attention and experts
  std::int64_t num_local_experts = 16;
  std::int64_t vocab_size = 32768;
  std::int64_t hidden_size = 6144;
  std::int64_t num_attention_heads = 64;
  std::int64_t num_key_value_heads = 4;  // also the number of index heads
  std::int64_t head_dim = 128;
  std::int64_t rotary_dim = 64;
  std::int64_t intermediate_size = 3072;  // of a routed expert and of the shared one
  std::int64_t dense_intermediate_size = 12288;
  std::int64_t num_experts_per_tok = 4;
  std::int64_t sparse_index_dim = 128;
  std::int64_t sparse_topk_blocks = 16;
  std::int64_t max_position_embeddings = 1048576;
  bool mxfp4 =
      true;  // experts and shared experts, as `quern quantize` writes them; false: all BF16
  std::uint64_t seed = 1;
};

// Throws an Error for sizes that no such model can have.
void check_options(const RandomCheckpointOptions& options);

// config.json, with the quantization_config of `quern quantize`.
Json random_checkpoint_config(const RandomCheckpointOptions& options);

// The tensor's bytes from `first_word` words on, 4 values of a float tensor or 8 bytes of another
// one to a word; `out` is a whole number of words, or ends with the tensor. Weights have the
// variance that keeps activations in range; a byte depends on name, place and seed alone.
void fill_random_tensor(const ExpectedTensor& tensor, std::uint64_t seed, std::int64_t first_word,
                        std::span<std::byte> out);

// Bytes of the tensors that `options` describe.
std::uint64_t random_checkpoint_bytes(const RandomCheckpointOptions& options);

// Writes the checkpoint, a file for each layer, with all threads; files of an interrupted run are
// replaced, a directory with a config.json is refused. `progress` is told of the bytes written.
void write_random_checkpoint(const std::filesystem::path& directory,
                             const RandomCheckpointOptions& options, int threads = 0,
                             const std::function<void(std::uint64_t)>& progress = {});

}  // namespace quern::bench
