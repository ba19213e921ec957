// A back end that notes how long each operation of another one takes: where the time of a step
// goes. Must never change what is computed. Proved by tests/bench/model_bench_test.cc.
#pragma once

#include <array>
#include <memory>

#include "quern/bench/step_cost.h"
#include "quern/bench/stopwatch.h"
#include "quern/kernels/backend.h"

namespace quern::bench {

struct OperationTime {
  std::int64_t calls = 0;
  double seconds = 0;
};
using OperationTimes = std::array<OperationTime, kNumOperations>;

class TimedBackend final : public kernels::Backend {
 public:
  TimedBackend(std::unique_ptr<kernels::Backend> inner, Clock clock, int threads)
      : inner_(std::move(inner)), clock_(clock), threads_(threads) {}

  // Since the last clear().
  const OperationTimes& times() const { return times_; }
  void clear() { times_ = {}; }

  kernels::WeightHandle bind(const kernels::WeightSource& source) override;
  kernels::Matrix allocate(std::int64_t rows, std::int64_t cols) override;
  kernels::Routing allocate_routing(std::int64_t tokens, int experts_per_token) override;
  kernels::BlockSelection allocate_selection(std::int64_t tokens, int num_kv_heads,
                                             int topk_blocks) override;
  std::unique_ptr<kernels::KvCache> create_kv_cache(const kernels::KvCacheSpec& spec) override;
  std::int64_t kv_block_bytes(const kernels::KvCacheSpec& spec) const override;
  void begin_step(const kernels::StepTokens& tokens, const kernels::RopeSpec& rope) override;
  void gather_columns(kernels::Matrix x, kernels::Matrix out) override;
  void own_columns(kernels::Matrix x, kernels::Matrix out) override;
  void embed(const kernels::Weight& table, kernels::Matrix out) override;
  void rms_norm(kernels::Matrix x, const kernels::Weight& weight, float eps,
                kernels::Matrix out) override;
  void add_rms_norm(kernels::Matrix x, kernels::Matrix residual, const kernels::Weight& weight,
                    float eps, kernels::Matrix out) override;
  void linear(const kernels::Weight& weight, kernels::Matrix x, kernels::Matrix out) override;
  void project_qkv(const kernels::AttentionWeights& weights, const kernels::AttentionSpec& spec,
                   kernels::Matrix x, kernels::KvCache& cache, kernels::Matrix q,
                   kernels::Matrix index_q) override;
  void select_blocks(const kernels::AttentionSpec& spec, kernels::Matrix index_q,
                     const kernels::KvCache& cache, kernels::BlockSelection selection) override;
  void attend(const kernels::AttentionSpec& spec, kernels::Matrix q, const kernels::KvCache& cache,
              const kernels::BlockSelection* selection, kernels::Matrix out) override;
  void mlp(const kernels::MlpWeights& weights, const kernels::SwigluSpec& swiglu, kernels::Matrix x,
           kernels::Matrix out) override;
  void route(const kernels::MoeWeights& weights, const kernels::MoeSpec& spec, kernels::Matrix x,
             kernels::Routing routing) override;
  void moe(const kernels::MoeWeights& weights, const kernels::MoeSpec& spec, kernels::Matrix x,
           kernels::Routing routing, kernels::Matrix out) override;
  void logits(const kernels::Weight& head, kernels::Matrix x, std::span<const std::int32_t> rows,
              std::span<float> logits) override;
  void write(kernels::Matrix matrix, std::int64_t row, std::span<const float> values) override;
  kernels::VisionBackend& vision() override;
  void read(kernels::Matrix matrix, std::int64_t row, std::span<float> values) override;
  void read(const kernels::Routing& routing, std::int64_t count,
            std::span<std::int32_t> experts) override;
  void read(const kernels::BlockSelection& selection, std::int64_t count,
            std::span<std::int32_t> blocks) override;
  void fill_kv_block(kernels::KvCache& cache, int layer, int kv_head, int block,
                     float value) override;
  void fill_kv_random(kernels::KvCache& cache, std::uint64_t seed) override;

 private:
  template <typename Run>
  void time(Operation operation, Run&& run);

  std::unique_ptr<kernels::Backend> inner_;
  Clock clock_;
  int threads_;
  OperationTimes times_;
};

}  // namespace quern::bench
