// The oracle of the vision operations: as the definition reads, sums in double and rounded once.
// Must never share arithmetic with a fast back end. Proved by tests/model/vision_tower_test.cc
// (against transformers and the outputs published with m3-tiny).
#include "quern/kernels/reference/reference_vision.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "quern/kernels/host_memory.h"
#include "quern/kernels/reference/reference_weight.h"
#include "quern/kernels/vision_rope.h"

namespace quern::kernels {
namespace {

float gelu(float x) {
  const auto value = static_cast<double>(x);
  return static_cast<float>(value / 2 * std::erfc(-value * std::numbers::sqrt2 / 2));
}

class ReferenceVision final : public VisionBackend {
 public:
  explicit ReferenceVision(Rounding rounding) : rounding_(rounding) {}

  WeightHandle bind_patch_embedding(const TensorView& weight) override {
    const std::int64_t rows = weight.shape.at(0);
    auto bound = std::make_unique<ReferenceWeight>(rows, weight.size() / rows, WeightFormat::kF32);
    for (std::size_t i = 0; i < bound->values.size(); ++i)
      bound->values[i] = round(weight.as<float>()[i]);
    return bound;
  }

  void begin_patches(const PatchTokens& patches, const PatchAttentionSpec& spec) override {
    spec_ = spec;
    rope_.compute(patches, spec);
    segment_ends_.assign(patches.segment_ends.begin(), patches.segment_ends.end());
  }

  void layer_norm(const LayerNormWeights& weights, float eps, Matrix x, Matrix out) override {
    for (std::int64_t r = 0; r < x.rows; ++r) {
      const float* in = host_row(x, r);
      double mean = 0;
      for (std::int64_t i = 0; i < x.cols; ++i) mean += static_cast<double>(in[i]);
      mean /= static_cast<double>(x.cols);
      double variance = 0;
      for (std::int64_t i = 0; i < x.cols; ++i)
        variance += (static_cast<double>(in[i]) - mean) * (static_cast<double>(in[i]) - mean);
      variance /= static_cast<double>(x.cols);
      const double scale = 1.0 / std::sqrt(variance + static_cast<double>(eps));
      for (std::int64_t i = 0; i < x.cols; ++i) {
        const double normed = (static_cast<double>(in[i]) - mean) * scale;
        host_row(out, r)[i] =
            round(static_cast<float>(normed * at(weights.weight, i) + at(weights.bias, i)));
      }
    }
  }

  void affine(const Affine& affine, Activation activation, Matrix x, Matrix out) override {
    for (std::int64_t r = 0; r < x.rows; ++r) {
      for (std::int64_t i = 0; i < out.cols; ++i) {
        const float value = project(affine, host_row(x, r), i);
        host_row(out, r)[i] = activation == Activation::kGelu ? round(gelu(value)) : value;
      }
    }
  }

  void add_affine(const Affine& affine, Matrix x, Matrix residual) override {
    for (std::int64_t r = 0; r < x.rows; ++r) {
      for (std::int64_t i = 0; i < residual.cols; ++i) {
        float& sum = host_row(residual, r)[i];
        sum = round(sum + project(affine, host_row(x, r), i));
      }
    }
  }

  void attend(Matrix q, Matrix k, Matrix v, Matrix out) override {
    for (std::int64_t r = 0; r < q.rows; ++r) {
      for (int h = 0; h < spec_.num_heads; ++h) {
        rotate(host_row(q, r) + h * spec_.head_dim, r);
        rotate(host_row(k, r) + h * spec_.head_dim, r);
      }
    }
    std::int64_t begin = 0;
    for (const std::int64_t end : segment_ends_) {
      for (std::int64_t r = begin; r < end; ++r) {
        for (int h = 0; h < spec_.num_heads; ++h) attend_head(q, k, v, out, r, h, begin, end);
      }
      begin = end;
    }
  }

 private:
  float round(float value) const {
    return rounding_ == Rounding::kBF16 ? round_to_bf16(value) : value;
  }

  static double at(const WeightHandle& weight, std::int64_t i) {
    return static_cast<double>(ref(weight).values[static_cast<std::size_t>(i)]);
  }

  float project(const Affine& affine, const float* x, std::int64_t row) const {
    const ReferenceWeight& weight = ref(affine.weight);
    const double bias = affine.bias != nullptr ? at(affine.bias, row) : 0.0;
    return round(static_cast<float>(dot(weight.row(row), x, weight.cols()) + bias));
  }

  void rotate(float* head, std::int64_t patch) const {
    const int pairs = rope_.pairs();
    for (int j = 0; j < pairs; ++j) {
      const float a = head[j];
      const float b = head[j + pairs];
      head[j] = round(a * rope_.cos(patch)[j] - b * rope_.sin(patch)[j]);
      head[j + pairs] = round(b * rope_.cos(patch)[j] + a * rope_.sin(patch)[j]);
    }
  }

  // P is rounded before the product with V.
  void attend_head(Matrix q, Matrix k, Matrix v, Matrix out, std::int64_t row, int head,
                   std::int64_t begin, std::int64_t end) const {
    const std::int64_t dim = spec_.head_dim;
    const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
    const float* query = host_row(q, row) + head * dim;
    std::vector<float> scores;
    for (std::int64_t j = begin; j < end; ++j)
      scores.push_back(static_cast<float>(dot(query, host_row(k, j) + head * dim, dim)) * scale);
    const float highest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (float& score : scores) {
      score = std::exp(score - highest);
      sum += static_cast<double>(score);
    }
    for (std::int64_t i = 0; i < dim; ++i) {
      double weighted = 0;
      for (std::int64_t j = begin; j < end; ++j) {
        weighted += static_cast<double>(round(scores[static_cast<std::size_t>(j - begin)])) *
                    static_cast<double>(host_row(v, j)[head * dim + i]);
      }
      host_row(out, row)[head * dim + i] = round(static_cast<float>(weighted / sum));
    }
  }

  Rounding rounding_;
  PatchAttentionSpec spec_;
  PatchRopeTable rope_;
  std::vector<std::int64_t> segment_ends_;
};

}  // namespace

std::unique_ptr<VisionBackend> make_reference_vision(Rounding rounding) {
  return std::make_unique<ReferenceVision>(rounding);
}

}  // namespace quern::kernels
