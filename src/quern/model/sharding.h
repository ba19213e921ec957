// Which rows of which tensor a rank holds: the one table that binding and `quern inspect` read.
// Must never give a row to no rank, or split a block of 32 of an input.
// Proved by tests/model/sharding_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/tensor_view.h"
#include "quern/checkpoint/model_config.h"

namespace quern::model {

// A rank's place in a model that several processes share.
struct Sharding {
  int rank = 0;
  int size = 1;
  bool expert_parallel = false;       // routed experts are whole on one rank each
  bool vision_data_parallel = false;  // every rank has the whole vision tower
};

struct RowRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

// Why a model of this configuration cannot be shared by so many ranks; "" when it can. `vision`:
// with its vision tower.
std::string sharding_obstacle(const ModelConfig& config, const Sharding& sharding, bool vision);
// Throws an Error with the obstacle and the sizes that work.
void check_sharding(const ModelConfig& config, const Sharding& sharding, bool vision);

// Of the `rows` rows of the named tensor (weight, scale or bias); count 0: none. The sharding fits
// the configuration.
RowRange rows_of(std::string_view tensor, std::int64_t rows, const ModelConfig& config,
                 const Sharding& sharding);

// Heads of a rank.
int local_heads(const TextConfig& config, const Sharding& sharding);
int local_kv_heads(const TextConfig& config, const Sharding& sharding);

// The rows of a tensor that the rank holds, where they lie.
TensorView slice_rows(const TensorView& tensor, const RowRange& rows);

}  // namespace quern::model
