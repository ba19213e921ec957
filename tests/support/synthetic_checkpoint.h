// A MiniMax-M3 checkpoint of any size with pseudo-random weights, the same bytes on every machine.
// Must never differ from tools/model_synthetic.py, which made the golden outputs of
// tests/golden/model. Proved by tests/support/synthetic_checkpoint_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quern/base/dtype.h"
#include "quern/base/tensor_view.h"

namespace quern::test {

// The defaults are the preset "sel": 4 groups that each select 4 blocks of 128 tokens.
struct SyntheticConfig {
  std::uint64_t seed = 1;
  std::int64_t vocab_size = 512;
  std::int64_t hidden_size = 128;
  std::int64_t num_hidden_layers = 4;
  std::int64_t num_dense_layers = 1;  // the first layers: full attention and a dense MLP
  std::int64_t num_attention_heads = 16;
  std::int64_t num_key_value_heads = 4;  // also the number of index heads
  std::int64_t head_dim = 32;
  std::int64_t rotary_dim = 16;
  std::int64_t intermediate_size = 64;  // of a routed expert and of the shared one
  std::int64_t dense_intermediate_size = 256;
  std::int64_t num_local_experts = 8;
  std::int64_t num_experts_per_tok = 2;
  std::int64_t sparse_index_dim = 32;
  std::int64_t sparse_topk_blocks = 4;
  std::int64_t max_position_embeddings = 8192;
  // Layers of a vision tower of the release's widths; 0 = config.json tells of the release's, and
  // there is no tensor of it. Only here: tools/model_synthetic.py has none.
  std::int64_t vision_layers = 0;
};

// Element i is uniform in offset +- scale; tools/model_synthetic.py defines it bit by bit.
struct SyntheticTensor {
  std::string name;
  Shape shape;
  float scale = 0.0f;
  float offset = 0.0f;
  DType dtype = DType::kBF16;  // or kF32
};

// The tensors under the release's names.
std::vector<SyntheticTensor> synthetic_tensors(const SyntheticConfig& config);

// Elements [begin, begin + count) of `tensor` as they are stored; `out` holds exactly their bytes.
void fill_synthetic(const SyntheticTensor& tensor, std::uint64_t seed, std::int64_t begin,
                    std::span<std::byte> out);

// config.json with every key of the release.
std::string synthetic_config_json(const SyntheticConfig& config);

// Writes config.json, one shard and its index into `directory` (created). Streams on all cores:
// memory does not grow with the checkpoint.
void write_synthetic_checkpoint(const std::filesystem::path& directory,
                                const SyntheticConfig& config);

// Deterministic token ids in [0, num_ids): stretches of 96 tokens draw from windows of 48 ids, so
// that 128-token blocks have distinct content. The golden prompt is (3000, vocab_size - 2).
std::vector<std::int32_t> synthetic_prompt(std::int64_t count, std::int64_t num_ids,
                                           std::uint64_t seed = 7);

}  // namespace quern::test
