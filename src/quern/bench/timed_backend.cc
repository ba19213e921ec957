// See timed_backend.h.
#include "quern/bench/timed_backend.h"

namespace quern::bench {

template <typename Run>
void TimedBackend::time(Operation operation, Run&& run) {
  const Stopwatch watch(clock_, threads_);
  run();
  const double elapsed = watch.seconds();
  OperationTime& sum = times_[static_cast<std::size_t>(operation)];
  ++sum.calls;
  sum.seconds += elapsed;
}

// The operations of a step.

void TimedBackend::embed(const kernels::Weight& table, kernels::Matrix out) {
  time(Operation::kEmbed, [&] { inner_->embed(table, out); });
}
void TimedBackend::rms_norm(kernels::Matrix x, const kernels::Weight& weight, float eps,
                            kernels::Matrix out) {
  time(Operation::kNorm, [&] { inner_->rms_norm(x, weight, eps, out); });
}
void TimedBackend::add_rms_norm(kernels::Matrix x, kernels::Matrix residual,
                                const kernels::Weight& weight, float eps, kernels::Matrix out) {
  time(Operation::kNorm, [&] { inner_->add_rms_norm(x, residual, weight, eps, out); });
}
void TimedBackend::linear(const kernels::Weight& weight, kernels::Matrix x, kernels::Matrix out) {
  time(Operation::kOutputProjection, [&] { inner_->linear(weight, x, out); });
}
void TimedBackend::project_qkv(const kernels::AttentionWeights& weights,
                               const kernels::AttentionSpec& spec, kernels::Matrix x,
                               kernels::KvCache& cache, kernels::Matrix q,
                               kernels::Matrix index_q) {
  time(Operation::kProjectQkv, [&] { inner_->project_qkv(weights, spec, x, cache, q, index_q); });
}
void TimedBackend::select_blocks(const kernels::AttentionSpec& spec, kernels::Matrix index_q,
                                 const kernels::KvCache& cache, kernels::BlockSelection selection) {
  time(Operation::kSelectBlocks, [&] { inner_->select_blocks(spec, index_q, cache, selection); });
}
void TimedBackend::attend(const kernels::AttentionSpec& spec, kernels::Matrix q,
                          const kernels::KvCache& cache, const kernels::BlockSelection* selection,
                          kernels::Matrix out) {
  time(Operation::kAttend, [&] { inner_->attend(spec, q, cache, selection, out); });
}
void TimedBackend::mlp(const kernels::MlpWeights& weights, const kernels::SwigluSpec& swiglu,
                       kernels::Matrix x, kernels::Matrix out) {
  time(Operation::kMlp, [&] { inner_->mlp(weights, swiglu, x, out); });
}
void TimedBackend::route(const kernels::MoeWeights& weights, const kernels::MoeSpec& spec,
                         kernels::Matrix x, kernels::Routing routing) {
  time(Operation::kRoute, [&] { inner_->route(weights, spec, x, routing); });
}
void TimedBackend::moe(const kernels::MoeWeights& weights, const kernels::MoeSpec& spec,
                       kernels::Matrix x, kernels::Routing routing, kernels::Matrix out) {
  time(Operation::kMoe, [&] { inner_->moe(weights, spec, x, routing, out); });
}
void TimedBackend::logits(const kernels::Weight& head, kernels::Matrix x,
                          std::span<const std::int32_t> rows, std::span<float> logits) {
  time(Operation::kLogits, [&] { inner_->logits(head, x, rows, logits); });
}

// What is handed through.

kernels::WeightHandle TimedBackend::bind(const kernels::WeightSource& source) {
  return inner_->bind(source);
}
kernels::Matrix TimedBackend::allocate(std::int64_t rows, std::int64_t cols) {
  return inner_->allocate(rows, cols);
}
kernels::Routing TimedBackend::allocate_routing(std::int64_t tokens, int experts_per_token) {
  return inner_->allocate_routing(tokens, experts_per_token);
}
kernels::BlockSelection TimedBackend::allocate_selection(std::int64_t tokens, int num_kv_heads,
                                                         int topk_blocks) {
  return inner_->allocate_selection(tokens, num_kv_heads, topk_blocks);
}
std::unique_ptr<kernels::KvCache> TimedBackend::create_kv_cache(const kernels::KvCacheSpec& spec) {
  return inner_->create_kv_cache(spec);
}
std::int64_t TimedBackend::kv_block_bytes(const kernels::KvCacheSpec& spec) const {
  return inner_->kv_block_bytes(spec);
}
void TimedBackend::begin_step(const kernels::StepTokens& tokens, const kernels::RopeSpec& rope) {
  inner_->begin_step(tokens, rope);
}
void TimedBackend::gather_columns(kernels::Matrix x, kernels::Matrix out) {
  inner_->gather_columns(x, out);
}
void TimedBackend::own_columns(kernels::Matrix x, kernels::Matrix out) {
  inner_->own_columns(x, out);
}
void TimedBackend::write(kernels::Matrix matrix, std::int64_t row, std::span<const float> values) {
  inner_->write(matrix, row, values);
}
kernels::VisionBackend& TimedBackend::vision() { return inner_->vision(); }
void TimedBackend::read(kernels::Matrix matrix, std::int64_t row, std::span<float> values) {
  inner_->read(matrix, row, values);
}
void TimedBackend::read(const kernels::Routing& routing, std::int64_t count,
                        std::span<std::int32_t> experts) {
  inner_->read(routing, count, experts);
}
void TimedBackend::read(const kernels::BlockSelection& selection, std::int64_t count,
                        std::span<std::int32_t> blocks) {
  inner_->read(selection, count, blocks);
}
void TimedBackend::fill_kv_block(kernels::KvCache& cache, int layer, int kv_head, int block,
                                 float value) {
  inner_->fill_kv_block(cache, layer, kv_head, block, value);
}
void TimedBackend::fill_kv_random(kernels::KvCache& cache, std::uint64_t seed) {
  inner_->fill_kv_random(cache, seed);
}

}  // namespace quern::bench
