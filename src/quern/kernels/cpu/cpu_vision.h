// The vision operations of the CPU back end. Must never let a result depend on the number of
// threads or on the other segments of a pass. Proved by tests/kernels/vision_parity_test.cc
// (against kernels/reference).
#pragma once

#include <deque>
#include <vector>

#include "quern/base/thread_team.h"
#include "quern/kernels/cpu/cpu_linear.h"
#include "quern/kernels/cpu/gemm_tile.h"
#include "quern/kernels/host_memory.h"
#include "quern/kernels/vision_backend.h"
#include "quern/kernels/vision_rope.h"

namespace quern::kernels {

class CpuVision final : public VisionBackend {
 public:
  // Matrix units are used where the machine has them, unless they are not wanted.
  CpuVision(ThreadTeam& team, bool matrix_units);

  WeightHandle bind_patch_embedding(const TensorView& weight) override;
  void begin_patches(const PatchTokens& patches, const PatchAttentionSpec& spec) override;
  void layer_norm(const LayerNormWeights& weights, float eps, Matrix x, Matrix out) override;
  void affine(const Affine& affine, Activation activation, Matrix x, Matrix out) override;
  void add_affine(const Affine& affine, Matrix x, Matrix residual) override;
  void attend(Matrix q, Matrix k, Matrix v, Matrix out) override;

 private:
  // One product with a weight: rows of x in, rows of out.
  struct Product {
    const CpuWeight& weight;
    const CpuWeight* bias;
    Finish finish;
    Matrix x, out;
  };
  // A part of it that is one piece of parallel work.
  struct Tile {
    std::int64_t row, rows, col, cols;
  };
  // Keys and values of one head of a segment, packed: panels of keys [head_dim][tile columns], and
  // panels of values [keys][tile columns].
  struct Segment {
    std::int64_t begin, end;  // patches
    std::int64_t keys;        // offset in packed_ of head 0
    std::int64_t values;
    std::int64_t keys_size, values_size;  // of a head
  };
  // Scratch of one thread.
  struct Worker {
    Scratch<float> x, panel, sums, bias, softmax;
  };

  void multiply(const Product& product);
  // x_ = the rows of x in steps of the depth, [steps][padded rows][kTileStride].
  void cut_rows(const TileKernel& kernel, Matrix x);
  // A part of x that is at most kTileDepth wide as rows of a buffer, to whole tiles.
  static void pack_rows(const TileKernel& kernel, Matrix x, const Tile& part, float* buffer);
  static void multiply_part(const TileKernel& kernel, const Product& product, const Tile& tile,
                            const float* x, Worker& worker);

  void rotate(Matrix heads, std::int64_t patch) const;
  void plan_segments(std::span<const std::int64_t> ends);
  void pack_head(const Segment& segment, int head, Matrix k, Matrix v);
  void attend_rows(const Segment& segment, int head, std::int64_t row, Matrix q, Matrix out,
                   Worker& worker);

  ThreadTeam& team_;
  const TileKernel vectors_;  // for weights that are not BF16
  const TileKernel kernel_;
  const TileShape shape_;  // of kernel_
  std::vector<Worker> workers_;
  std::deque<std::vector<BF16>> rounded_;  // weights that are not used as they lie in the file
  PatchAttentionSpec spec_;
  PatchRopeTable rope_;
  std::vector<Segment> segments_;
  std::int64_t packed_size_ = 0;
  Scratch<float> x_;
  Scratch<float> packed_;
  Scratch<float> norm_;
};

}  // namespace quern::kernels
