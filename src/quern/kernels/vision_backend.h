// The operations of a vision tower: a transformer over patches with full attention inside segments.
// Part of a Backend (Backend::vision()), on its matrices and weights. Must never depend on one
// model's sizes, or let a segment's result depend on the other segments of the pass.
// Proved by tests/kernels/vision_parity_test.cc (every back end against kernels/reference).
#pragma once

#include <cstdint>
#include <span>

#include "quern/kernels/backend.h"

namespace quern::kernels {

// weight [out, in] (BF16 or F32) and bias [out]; a null bias is none.
struct Affine {
  WeightHandle weight, bias;
};

struct LayerNormWeights {
  WeightHandle weight, bias;
};

enum class Activation : std::uint8_t {
  kNone,
  kGelu,  // x / 2 * (1 + erf(x / sqrt(2)))
};

struct PatchAttentionSpec {
  int num_heads = 0;
  int head_dim = 0;
  float rope_theta = 0;

  // Frequencies of an axis; t, h and w have the same ones: theta^(-j / count), j < count.
  int axis_frequencies() const { return head_dim / 3 / 2; }
  // Value i of a head turns with value i + rope_pairs(); what lies behind 2 * rope_pairs() passes.
  int rope_pairs() const { return 3 * axis_frequencies(); }
};

// The patches of a pass, segment behind segment. Host memory.
struct PatchTokens {
  std::span<const std::int32_t> coordinates;   // [patches, 3]: t, h, w
  std::span<const std::int64_t> segment_ends;  // ascending, none empty; the last is the count
};

// Rows of all Matrix arguments are patches (x.rows of them) unless said otherwise. Outputs never
// alias inputs unless a parameter says so. Same thread as the Backend.
class VisionBackend {
 public:
  virtual ~VisionBackend() = default;

  // The patch embedding's F32 [hidden, channels, t, h, w] as a matrix [hidden, the rest], in the
  // precision of activations (vLLM loads it into a BF16 parameter).
  virtual WeightHandle bind_patch_embedding(const TensorView& weight) = 0;

  // A pass begins: positions and segments for attend().
  virtual void begin_patches(const PatchTokens& patches, const PatchAttentionSpec& spec) = 0;

  // (x - mean) / sqrt(variance + eps) * weight + bias.
  virtual void layer_norm(const LayerNormWeights& weights, float eps, Matrix x, Matrix out) = 0;

  // out = activation(x weight^T + bias); rounded before the activation and behind it.
  virtual void affine(const Affine& affine, Activation activation, Matrix x, Matrix out) = 0;

  // residual += x weight^T + bias; the product is rounded, then the sum.
  virtual void add_affine(const Affine& affine, Matrix x, Matrix residual) = 0;

  // Rotates q and k in place (float32 tables, one rounding), then out = softmax(q k^T /
  // sqrt(head_dim)) v inside each segment of the pass. All [patches, heads * head_dim].
  virtual void attend(Matrix q, Matrix k, Matrix v, Matrix out) = 0;
};

}  // namespace quern::kernels
