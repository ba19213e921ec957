// What sharing a model costs: bytes of weights and KV cache of a rank, messages of a decoded token.
// Must never read tensor data, or count otherwise than binding and a step do.
// Proved by tests/model/parallel_test.cc (bytes of a step) and tests/model/sharding_test.cc.
#pragma once

#include <array>
#include <cstdint>

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/inspect.h"
#include "quern/checkpoint/model_config.h"
#include "quern/model/sharding.h"
#include "quern/model/text_model.h"

namespace quern::model {

// Of one part of the model.
struct PartBytes {
  std::uint64_t whole = 0;      // in the checkpoint
  std::uint64_t rank = 0;       // of the rank that holds most
  std::uint64_t all_ranks = 0;  // what is beyond `whole` is replicated

  PartBytes& operator+=(const PartBytes& other);
};

// By ModelPart; tensors that are not bound (MTP) are left out.
std::array<PartBytes, kNumModelParts> part_bytes(const Checkpoint& checkpoint,
                                                 const ModelConfig& config,
                                                 const Sharding& sharding);

// Of a token's keys and values on a rank, BF16.
std::int64_t kv_bytes_per_token(const TextConfig& config, const Sharding& sharding);

// A step that decodes one token, with products as --moe-backend native computes them.
struct TokenTraffic {
  std::int64_t operations = 0;  // collective calls of a rank
  std::int64_t sent_bytes = 0;  // of all ranks together, each part counted once
};
TokenTraffic token_traffic(const ModelConfig& config, const Sharding& sharding);

}  // namespace quern::model
