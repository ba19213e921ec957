// The oracle: every operation as the definition reads, one loop a sum, in the order of the formula.
// Sums are taken in double and rounded once, so that the result is the exact value to within one
// float32 rounding. Must never share arithmetic with a fast back end. Proved by
// tests/model/text_model_test.cc (against models written independently in Python).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "quern/base/error.h"
#include "quern/kernels/block_selection.h"
#include "quern/kernels/factory.h"
#include "quern/kernels/host_memory.h"
#include "quern/kernels/reference/reference_vision.h"
#include "quern/kernels/reference/reference_weight.h"
#include "quern/kernels/routing.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

class ReferenceBackend final : public HostBackend<float> {
 public:
  explicit ReferenceBackend(Rounding rounding)
      : HostBackend(rounding == Rounding::kBF16),
        rounding_(rounding),
        vision_(make_reference_vision(rounding)) {}

  VisionBackend& vision() override { return *vision_; }

  WeightHandle bind(const WeightSource& source) override {
    const bool packed =
        source.format == WeightFormat::kMxfp4 || source.format == WeightFormat::kMxfp4WeightOnly;
    const std::int64_t rows = source.weight.shape.at(0);
    const std::int64_t cols =
        source.weight.size() / std::max<std::int64_t>(rows, 1) * (packed ? 2 : 1);
    auto weight = std::make_unique<ReferenceWeight>(rows, cols, source.format);
    const auto count = static_cast<std::size_t>(rows * cols);
    if (source.format == WeightFormat::kF32) {
      std::copy_n(source.weight.as<float>(), count, weight->values.begin());
    } else if (source.format == WeightFormat::kBF16) {
      for (std::size_t i = 0; i < count; ++i)
        weight->values[i] = bf16_to_float(source.weight.as<BF16>()[i]);
    } else {
      mxfp4_reference::decode_row({source.weight.as<std::uint8_t>(), count / 2},
                                  {source.scale.as<std::uint8_t>(), count / kMxBlock},
                                  weight->values);
    }
    return weight;
  }

  void begin_step(const StepTokens& tokens, const RopeSpec& rope) override {
    set_step(tokens, rope, rounding_ == Rounding::kBF16);
  }

  void gather_columns(Matrix, Matrix) override { QUERN_CHECK(false, "one rank only"); }
  void own_columns(Matrix, Matrix) override { QUERN_CHECK(false, "one rank only"); }

  void embed(const Weight& table, Matrix out) override {
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      const std::int32_t id = tokens_.token_ids[static_cast<std::size_t>(t)];
      std::copy_n(ref(table).row(id), out.cols, host_row(out, t));
    }
  }

  void rms_norm(Matrix x, const Weight& weight, float eps, Matrix out) override {
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      norm(host_row(x, t), ref(weight), eps, x.cols, host_row(out, t));
      round_row(host_row(out, t), out.cols);
    }
  }

  void add_rms_norm(Matrix x, Matrix residual, const Weight& weight, float eps,
                    Matrix out) override {
    std::vector<float> sum(static_cast<std::size_t>(x.cols));
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i) {
        sum[static_cast<std::size_t>(i)] = host_row(x, t)[i] + host_row(residual, t)[i];
        host_row(residual, t)[i] = round(sum[static_cast<std::size_t>(i)]);
      }
      norm(sum.data(), ref(weight), eps, x.cols, host_row(out, t));
      round_row(host_row(out, t), out.cols);
    }
  }

  void linear(const Weight& weight, Matrix x, Matrix out) override {
    for (std::int64_t t = 0; t < num_tokens(); ++t)
      project(ref(weight), host_row(x, t), host_row(out, t));
  }

  void project_qkv(const AttentionWeights& w, const AttentionSpec& spec, Matrix x, KvCache& cache,
                   Matrix q, Matrix index_q) override {
    Cache& kv = host_cache(cache);
    std::vector<float> k(static_cast<std::size_t>(spec.num_kv_heads * spec.head_dim));
    std::vector<float> v(k.size());
    std::vector<float> index_k(static_cast<std::size_t>(spec.index_dim));
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      const float* in = host_row(x, t);
      project(ref(w.q_proj), in, host_row(q, t));
      project(ref(w.k_proj), in, k.data());
      project(ref(w.v_proj), in, v.data());
      for (int h = 0; h < spec.num_heads; ++h) {
        norm_rope(host_row(q, t) + h * spec.head_dim, spec.head_dim, spec, w.q_norm, t);
      }
      const int block = block_table(t)[position(t) / kBlockTokens];
      const int offset = position(t) % kBlockTokens;
      for (int h = 0; h < spec.num_kv_heads; ++h) {
        float* head = k.data() + h * spec.head_dim;
        norm_rope(head, spec.head_dim, spec, w.k_norm, t);
        std::copy_n(head, spec.head_dim, kv.k(spec.layer, block, h) + offset * spec.head_dim);
        std::copy_n(v.data() + h * spec.head_dim, spec.head_dim,
                    kv.v(spec.layer, block, h) + offset * spec.head_dim);
      }
      if (spec.num_index_heads == 0) continue;
      project(ref(w.index_q_proj), in, host_row(index_q, t));
      project(ref(w.index_k_proj), in, index_k.data());
      for (int h = 0; h < spec.num_index_heads; ++h) {
        norm_rope(host_row(index_q, t) + h * spec.index_dim, spec.index_dim, spec, w.index_q_norm,
                  t);
      }
      norm_rope(index_k.data(), spec.index_dim, spec, w.index_k_norm, t);
      std::copy_n(index_k.data(), spec.index_dim,
                  kv.index(spec.layer, block) + offset * spec.index_dim);
    }
  }

  void select_blocks(const AttentionSpec& spec, Matrix index_q, const KvCache& cache,
                     BlockSelection selection) override {
    const Cache& kv = host_cache(cache);
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      const int visible = position(t) / kBlockTokens + 1;
      std::vector<float> scores(static_cast<std::size_t>(visible));
      std::vector<std::int32_t> order(scores.size());
      for (int g = 0; g < spec.num_index_heads; ++g) {
        const float* query = host_row(index_q, t) + g * spec.index_dim;
        for (int b = 0; b < visible; ++b) {
          float best = -std::numeric_limits<float>::infinity();
          for (int j = 0; j < kBlockTokens && b * kBlockTokens + j <= position(t); ++j) {
            const float* key = kv.index(spec.layer, block_table(t)[b]) + j * spec.index_dim;
            best = std::max(best, static_cast<float>(dot(query, key, spec.index_dim)));
          }
          scores[static_cast<std::size_t>(b)] = best;
        }
        std::int32_t* chosen = selection.blocks + (t * spec.num_kv_heads + g) * spec.topk_blocks;
        choose_blocks(scores, spec.init_blocks, spec.local_blocks, order,
                      {chosen, static_cast<std::size_t>(spec.topk_blocks)});
      }
    }
  }

  void attend(const AttentionSpec& spec, Matrix q, const KvCache& cache,
              const BlockSelection* selection, Matrix out) override {
    const int group = spec.num_heads / spec.num_kv_heads;
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      for (int h = 0; h < spec.num_heads; ++h) {
        const int kv_head = h / group;
        std::vector<std::int32_t> blocks;
        if (selection == nullptr) {
          for (int b = 0; b <= position(t) / kBlockTokens; ++b) blocks.push_back(b);
        } else {
          const std::int32_t* chosen =
              selection->blocks + (t * spec.num_kv_heads + kv_head) * spec.topk_blocks;
          for (int i = 0; i < spec.topk_blocks && chosen[i] >= 0; ++i) blocks.push_back(chosen[i]);
        }
        attend_head(spec, host_row(q, t) + h * spec.head_dim, host_cache(cache), t, kv_head, blocks,
                    host_row(out, t) + h * spec.head_dim);
      }
    }
  }

  void mlp(const MlpWeights& weights, const SwigluSpec& swiglu, Matrix x, Matrix out) override {
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      expert(weights, swiglu, host_row(x, t), 1.0F, host_row(out, t));
    }
  }

  void route(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing) override {
    std::vector<float> logits(static_cast<std::size_t>(spec.num_experts));
    const auto per_token = static_cast<std::size_t>(spec.experts_per_token);
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      for (int e = 0; e < spec.num_experts; ++e) {
        logits[static_cast<std::size_t>(e)] =
            static_cast<float>(dot(ref(weights.gate).row(e), host_row(x, t), x.cols));
      }
      const std::span<const float> bias =
          weights.correction_bias ? std::span<const float>(ref(weights.correction_bias).values)
                                  : std::span<const float>();
      choose_experts(logits, bias, {routing.experts + t * spec.experts_per_token, per_token},
                     {routing.weights + t * spec.experts_per_token, per_token});
    }
  }

  void moe(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing,
           Matrix out) override {
    std::vector<float> one(static_cast<std::size_t>(x.cols));
    std::vector<double> sum(one.size());
    for (std::int64_t t = 0; t < num_tokens(); ++t) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int k = 0; k < spec.experts_per_token; ++k) {
        const std::int64_t slot = t * spec.experts_per_token + k;
        expert(weights.experts[static_cast<std::size_t>(routing.experts[slot])], spec.swiglu,
               host_row(x, t), routing.weights[slot], one.data());
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(one[i]);
      }
      const bool shared = weights.shared.gate_proj != nullptr;
      if (shared) expert(weights.shared, spec.swiglu, host_row(x, t), 1.0F, one.data());
      for (std::size_t i = 0; i < sum.size(); ++i) {
        const float routed = round(round(static_cast<float>(sum[i])) * spec.routed_scaling_factor);
        host_row(out, t)[i] = shared ? round(routed + one[i]) : routed;
      }
    }
  }

  void logits(const Weight& head, Matrix x, std::span<const std::int32_t> rows,
              std::span<float> out) override {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      project(ref(head), host_row(x, rows[i]),
              out.data() + static_cast<std::int64_t>(i) * head.rows());
    }
  }

 private:
  float round(float value) const {
    return rounding_ == Rounding::kBF16 ? round_to_bf16(value) : value;
  }
  void round_row(float* values, std::int64_t n) const {
    for (std::int64_t i = 0; i < n; ++i) values[i] = round(values[i]);
  }

  // x * rstd * (1 + w), not rounded.
  static void norm(const float* x, const ReferenceWeight& weight, float eps, std::int64_t n,
                   float* out) {
    const double rstd =
        1.0 / std::sqrt(dot(x, x, n) / static_cast<double>(n) + static_cast<double>(eps));
    for (std::int64_t i = 0; i < n; ++i) {
      const double scale = 1.0 + static_cast<double>(weight.values[static_cast<std::size_t>(i)]);
      out[i] = static_cast<float>(static_cast<double>(x[i]) * rstd * scale);
    }
  }

  // Norm and rotation of one head in place, one rounding at the end.
  void norm_rope(float* head, int dim, const AttentionSpec& spec, const WeightHandle& weight,
                 std::int64_t token) {
    if (spec.qk_norm) norm(head, ref(weight), spec.norm_eps, dim, head);
    const int half = rope_.half();
    for (int j = 0; j < half; ++j) {
      const float a = head[j];
      const float b = head[j + half];
      const float cos = rope_.cos(token)[j];
      const float sin = rope_.sin(token)[j];
      head[j] = a * cos - b * sin;
      head[j + half] = b * cos + a * sin;
    }
    round_row(head, dim);
  }

  // out [rows] = weight x, the input quantized to MXFP4 first when the format says so.
  void project(const ReferenceWeight& weight, const float* x, float* out) const {
    std::vector<float> quantized;
    if (weight.format() == WeightFormat::kMxfp4) {
      quantized.resize(static_cast<std::size_t>(weight.cols()));
      mxfp4_reference::qdq({x, quantized.size()}, quantized);
      x = quantized.data();
    }
    for (std::int64_t r = 0; r < weight.rows(); ++r) {
      out[r] = round(static_cast<float>(dot(weight.row(r), x, weight.cols())));
    }
  }

  // scale * down(swiglu(gate, up)): gate and up rounded, the product rounded, the scaled sum
  // rounded.
  void expert(const MlpWeights& weights, const SwigluSpec& spec, const float* x, float scale,
              float* out) const {
    const std::int64_t inner = weights.gate_proj->rows();
    std::vector<float> gate(static_cast<std::size_t>(inner));
    std::vector<float> up(gate.size());
    project(ref(weights.gate_proj), x, gate.data());
    project(ref(weights.up_proj), x, up.data());
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const float g = std::min(gate[i], spec.limit);
      const float u = std::clamp(up[i], -spec.limit, spec.limit);
      gate[i] = round(g / (1.0F + std::exp(-spec.alpha * g)) * (u + spec.beta));
    }
    const ReferenceWeight& down = ref(weights.down_proj);
    if (down.format() == WeightFormat::kMxfp4) mxfp4_reference::qdq(gate, gate);
    for (std::int64_t r = 0; r < down.rows(); ++r) {
      out[r] = round(static_cast<float>(dot(down.row(r), gate.data(), inner)) * scale);
    }
  }

  // softmax(q k / sqrt(d)) v over the keys of `blocks` up to the query; P is rounded before the
  // product with V.
  void attend_head(const AttentionSpec& spec, const float* query, const Cache& kv,
                   std::int64_t token, int kv_head, std::span<const std::int32_t> blocks,
                   float* out) const {
    const float scale = 1.0F / std::sqrt(static_cast<float>(spec.head_dim));
    std::vector<float> scores;
    std::vector<const float*> values;
    for (const std::int32_t b : blocks) {
      const int block = block_table(token)[b];
      for (int j = 0; j < kBlockTokens && b * kBlockTokens + j <= position(token); ++j) {
        const float* key = kv.k(spec.layer, block, kv_head) + j * spec.head_dim;
        scores.push_back(static_cast<float>(dot(query, key, spec.head_dim)) * scale);
        values.push_back(kv.v(spec.layer, block, kv_head) + j * spec.head_dim);
      }
    }
    const float highest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (float& score : scores) {
      score = std::exp(score - highest);
      sum += static_cast<double>(score);
    }
    for (int i = 0; i < spec.head_dim; ++i) {
      double weighted = 0;
      for (std::size_t j = 0; j < scores.size(); ++j) {
        weighted += static_cast<double>(round(scores[j])) * static_cast<double>(values[j][i]);
      }
      out[i] = round(static_cast<float>(weighted / sum));
    }
  }

  Rounding rounding_;
  std::unique_ptr<VisionBackend> vision_;
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend(Rounding rounding) {
  return std::make_unique<ReferenceBackend>(rounding);
}

}  // namespace quern::kernels
