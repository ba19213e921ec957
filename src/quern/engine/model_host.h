// A checkpoint's model on this process's device: its weights (of several ranks: this one's part),
// KV cache and vision tower, driven as a StepRunner. Must never know of requests or of who asks for
// a step. Proved by tests/engine/batch_invariance_test.cc (alone) and
// tests/apps/parallel_program_test.cc (several).
#pragma once

#include <memory>
#include <optional>

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/distributed/communicator.h"
#include "quern/engine/engine.h"
#include "quern/engine/step_runner.h"
#include "quern/model/vision_tower.h"
#include "quern/vision/preprocess.h"

namespace quern::engine {

// Throws an Error for options that contradict one another.
void check_options(const EngineOptions& options);

// How pictures become patches; nullopt when the checkpoint has no tower or none is wanted.
std::optional<vision::VisionPreprocessConfig> read_image_config(const EngineOptions& options,
                                                                const Checkpoint& checkpoint,
                                                                const ModelConfig& config);

class ModelHost {
 public:
  // Binds the weights. `ranks_on_host` processes share this machine's memory. `checkpoint`,
  // `config` and `communicator` (null: alone) outlive the host.
  ModelHost(const EngineOptions& options, const Checkpoint& checkpoint, const ModelConfig& config,
            const model::Sharding& sharding = {}, Communicator* communicator = nullptr,
            int ranks_on_host = 1);

  // Blocks that the options or this machine's memory allow.
  int possible_blocks() const { return possible_blocks_; }
  // Makes a cache of so many and sets max_model_len() so that one sequence of that length always
  // fits; throws when the options want a longer one.
  void open_cache(int num_blocks);

  int num_blocks() const { return num_blocks_; }
  int max_model_len() const { return max_model_len_; }
  bool has_vision() const { return tower_ != nullptr; }
  StepRunner& runner() { return *runner_; }

 private:
  int count_possible_blocks(int ranks_on_host) const;
  std::int64_t wanted_len() const;
  std::int64_t block_bytes() const;

  EngineOptions options_;
  const ModelConfig& config_;
  std::unique_ptr<kernels::Backend> backend_;
  model::TextModel model_;
  std::unique_ptr<model::VisionTower> tower_;
  int possible_blocks_ = 0;
  int num_blocks_ = 0;
  int max_model_len_ = 0;
  std::unique_ptr<kernels::KvCache> cache_;
  std::unique_ptr<StepRunner> runner_;
};

}  // namespace quern::engine
