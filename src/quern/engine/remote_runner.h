// The model in several processes: each step goes to rank 0 as a message, which all ranks run.
// Must never wait for a rank that shows no life.
// Proved by tests/apps/parallel_program_test.cc.
#pragma once

#include <memory>
#include <vector>

#include "quern/checkpoint/model_config.h"
#include "quern/distributed/rank_job.h"
#include "quern/engine/engine.h"
#include "quern/engine/step_runner.h"

namespace quern::engine {

class RemoteRunner final : public StepRunner {
 public:
  // Starts the ranks and waits until they have the model. Throws what one of them says.
  RemoteRunner(const EngineOptions& options, const ModelConfig& config, bool images);

  int num_blocks() const { return num_blocks_; }
  int max_model_len() const { return max_model_len_; }
  bool alive() const { return job_->alive(); }

  int vocab_size() const override { return vocab_size_; }
  std::size_t feature_size() const override { return feature_size_; }
  void encode(std::span<const vision::ImagePatches* const> images,
              std::span<float> features) override;
  void run(std::span<const model::SequenceChunk> chunks, std::span<float> logits) override;
  void logits_of(std::span<const std::int32_t> tokens, std::span<float> logits) override;

 private:
  int vocab_size_;
  std::size_t feature_size_;
  std::unique_ptr<RankJob> job_;
  int num_blocks_ = 0;
  int max_model_len_ = 0;
  std::vector<std::byte> message_;
};

}  // namespace quern::engine
