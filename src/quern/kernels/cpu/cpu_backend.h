// The CPU back end: one object, its operations spread over one file a subject (cpu_backend.cc:
// embedding, norms, linear; cpu_attention.cc; cpu_moe.cc; the vision tower's in CpuVision). Must
// never let a result depend on the number of threads, the batch or the cut of a prompt into chunks.
// Proved by tests/kernels/parity_test.cc (against kernels/reference).
#pragma once

#include <vector>

#include "quern/base/thread_team.h"
#include "quern/kernels/cpu/cpu_linear.h"
#include "quern/kernels/cpu/cpu_vision.h"
#include "quern/kernels/factory.h"
#include "quern/kernels/host_memory.h"

namespace quern::kernels {

class CpuBackend final : public HostBackend<BF16> {
 public:
  explicit CpuBackend(const CpuOptions& options);

  WeightHandle bind(const WeightSource& source) override;
  void begin_step(const StepTokens& tokens, const RopeSpec& rope) override;
  void gather_columns(Matrix x, Matrix out) override;
  void own_columns(Matrix x, Matrix out) override;
  void embed(const Weight& table, Matrix out) override;
  void rms_norm(Matrix x, const Weight& weight, float eps, Matrix out) override;
  void add_rms_norm(Matrix x, Matrix residual, const Weight& weight, float eps,
                    Matrix out) override;
  void linear(const Weight& weight, Matrix x, Matrix out) override;
  void project_qkv(const AttentionWeights& weights, const AttentionSpec& spec, Matrix x,
                   KvCache& cache, Matrix q, Matrix index_q) override;
  void select_blocks(const AttentionSpec& spec, Matrix index_q, const KvCache& cache,
                     BlockSelection selection) override;
  void attend(const AttentionSpec& spec, Matrix q, const KvCache& cache,
              const BlockSelection* selection, Matrix out) override;
  void mlp(const MlpWeights& weights, const SwigluSpec& swiglu, Matrix x, Matrix out) override;
  void route(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing) override;
  void moe(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing,
           Matrix out) override;
  void logits(const Weight& head, Matrix x, std::span<const std::int32_t> rows,
              std::span<float> out) override;
  VisionBackend& vision() override { return vision_; }

 private:
  // One product of a region: out [tokens, weight.rows()].
  struct Projection {
    const CpuWeight* weight;
    float* out;
  };
  // An expert's share of a MoE region: the slots [begin, end) of slot_tokens_ belong to it.
  struct ExpertGroup {
    const MlpWeights* weights;
    std::int32_t begin;
    std::int32_t end;
    bool whole;  // on this rank alone; else every rank has a part of it
  };
  // A row range of one expert's matrices.
  struct ExpertTile {
    std::int32_t group;
    std::int64_t row;
  };
  // Scratch of one thread.
  struct Worker {
    Scratch<float> panel, tile, scores, acc;
    Scratch<std::int32_t> order;
  };

  // Computes all projections of input_ rows `tokens` in one parallel region; results are rounded to
  // BF16 when `round`.
  void project(std::span<const Projection> projections, std::span<const std::int32_t> tokens,
               bool round);
  // input_ = the rows of x in the forms that the weights want.
  void prepare(std::span<const Projection> projections, Matrix x);
  std::span<const std::int32_t> all_rows(std::int64_t count);

  void norm_rope(float* head, int dim, const AttentionSpec& spec, const Weight& weight,
                 std::int64_t token) const;
  void write_cache(const AttentionWeights& weights, const AttentionSpec& spec, Cache& cache,
                   std::int64_t token, Matrix q, Matrix index_q, float* k, const float* v,
                   float* index_k) const;
  // best[head * stride + b] = the largest score of block b, for the blocks [begin, end).
  void score_blocks(const AttentionSpec& spec, const Cache& cache, std::int64_t token,
                    const float* index_q, std::int32_t begin, std::int32_t end, float* best,
                    std::int64_t stride, Worker& worker) const;
  void attend_unit(const AttentionSpec& spec, Matrix q, const Cache& cache,
                   const BlockSelection* selection, std::int64_t token, int kv_head, Matrix out,
                   Worker& worker) const;

  // moe() for tokens [first, first + count): scratch stays bounded.
  void moe_chunk(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing,
                 Matrix out, std::int64_t first, std::int64_t count);
  void group_by_expert(const MoeWeights& weights, const MoeSpec& spec, Routing routing,
                       std::int64_t first, std::int64_t count);
  void list_tiles(bool down);
  void expert_gate_up(const SwigluSpec& swiglu, std::int64_t inner_stride);
  // Prepares the inner values of the groups for the down projection.
  void prepare_inner(std::int64_t inner_stride);
  void expert_down(std::int64_t hidden);
  // The result of a slot from a group's down projection.
  float* slot_result(const ExpertGroup& group, std::int32_t slot, std::int64_t cols) const;
  bool split() const { return exchange_.size() > 1; }

  Products products_;
  ThreadTeam team_;
  CpuExchange exchange_;
  CpuVision vision_;
  std::vector<Worker> workers_;
  InputRows input_, inner_input_;
  std::vector<std::int32_t> row_ids_;
  Scratch<float> qkv_, mlp_, inner_, slot_out_;
  Scratch<float> block_scores_;           // [tokens of a chunk, index heads, blocks]
  Scratch<float> columns_;                // this rank's columns of a result
  Scratch<float> whole_out_;              // [slots of this rank's whole experts, hidden]
  std::vector<std::int32_t> owners_;      // rank of each token's embedding
  std::vector<std::int64_t> rank_slots_;  // slots of each rank's whole experts
  std::int32_t first_whole_slot_ = 0;
  std::vector<ExpertGroup> groups_;
  std::vector<ExpertTile> tiles_;
  std::vector<std::int32_t> slot_tokens_,
      slot_of_;  // slot -> token of the chunk; (token, k) -> slot
  std::vector<float> slot_weights_;
};

}  // namespace quern::kernels
