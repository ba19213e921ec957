// Norms and products of the vision tower on the CPU; attention is in cpu_vision_attention.cc. See
// cpu_vision.h.
//
// A product is cut into parts of rows x columns. A part goes through the depth in steps: its rows
// of x, laid out for that once in front, stay in the L2 cache, each panel of the weight is unpacked
// to float in the L1 cache and used for all of them, sums stay in the L2 cache until they are done.
#include "quern/kernels/cpu/cpu_vision.h"

#include <algorithm>
#include <cstring>

namespace quern::kernels {
namespace {

constexpr std::int64_t kPartCols = 256;
constexpr std::int64_t kNormGrain = 8;  // patches

// Vector `weight` as floats.
void copy_vector(const CpuWeight* weight, std::int64_t begin, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = weight != nullptr ? weight->at(begin + i) : 0.0F;
}

}  // namespace

CpuVision::CpuVision(ThreadTeam& team, bool matrix_units)
    : team_(team),
      vectors_(vector_tile_kernel()),
      kernel_(matrix_units && amx_tile_kernel() != nullptr ? *amx_tile_kernel() : vectors_),
      shape_(kernel_.shape),
      workers_(static_cast<std::size_t>(team.size())) {}

WeightHandle CpuVision::bind_patch_embedding(const TensorView& weight) {
  const auto size = static_cast<std::size_t>(weight.size());
  std::vector<BF16>& rounded = rounded_.emplace_back(size);
  float_to_bf16({weight.as<float>(), size}, rounded);
  const std::int64_t rows = weight.shape.at(0);
  const Shape shape{rows, weight.size() / rows};
  const TensorView view{DType::kBF16, shape, reinterpret_cast<const std::byte*>(rounded.data())};
  return std::make_unique<CpuWeight>(shape[0], shape[1],
                                     WeightSource{WeightFormat::kBF16, view, {}});
}

void CpuVision::layer_norm(const LayerNormWeights& weights, float eps, Matrix x, Matrix out) {
  float* weight = norm_.reserve(2 * x.cols);
  float* bias = weight + x.cols;
  copy_vector(&cpu(weights.weight), 0, x.cols, weight);
  copy_vector(&cpu(weights.bias), 0, x.cols, bias);
  team_.parallel_for(x.rows, kNormGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r)
      layer_norm_row(host_row(x, r), weight, bias, eps, x.cols, host_row(out, r));
  });
}

void CpuVision::affine(const Affine& affine, Activation activation, Matrix x, Matrix out) {
  const Finish finish = activation == Activation::kGelu ? Finish::kGelu : Finish::kStore;
  multiply({cpu(affine.weight), affine.bias ? &cpu(affine.bias) : nullptr, finish, x, out});
}

void CpuVision::add_affine(const Affine& affine, Matrix x, Matrix residual) {
  multiply(
      {cpu(affine.weight), affine.bias ? &cpu(affine.bias) : nullptr, Finish::kAdd, x, residual});
}

void CpuVision::multiply(const Product& product) {
  const CpuWeight& weight = product.weight;
  QUERN_CHECK(weight.format() == WeightFormat::kBF16 || weight.format() == WeightFormat::kF32);
  QUERN_CHECK(product.x.cols == weight.cols() && product.out.cols == weight.rows());
  const TileKernel& kernel = weight.format() == WeightFormat::kBF16 ? kernel_ : vectors_;
  const std::int64_t rows = product.x.rows;
  cut_rows(kernel, product.x);
  const float* x = x_.reserve(0);
  const std::int64_t part_rows = kernel.part_rows;
  const std::int64_t row_parts = (rows + part_rows - 1) / part_rows;
  const std::int64_t col_parts = (weight.rows() + kPartCols - 1) / kPartCols;
  team_.parallel_for(
      row_parts * col_parts, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
        for (std::int64_t part = begin; part < end; ++part) {
          const std::int64_t row = part % row_parts * part_rows;
          const std::int64_t col = part / row_parts * kPartCols;
          multiply_part(
              kernel, product,
              {row, std::min(part_rows, rows - row), col, std::min(kPartCols, weight.rows() - col)},
              x, workers_[static_cast<std::size_t>(thread)]);
        }
      });
}

void CpuVision::pack_rows(const TileKernel& kernel, Matrix x, const Tile& part, float* buffer) {
  for (std::int64_t r = 0; r < part.rows; ++r)
    kernel.pack_row(host_row(x, part.row + r) + part.col, part.cols, buffer + r * kTileStride);
  const std::int64_t free = kernel.shape.pad_rows(part.rows) - part.rows;
  std::fill_n(buffer + part.rows * kTileStride, free * kTileStride, 0.0F);
}

void CpuVision::cut_rows(const TileKernel& kernel, Matrix x) {
  const std::int64_t padded = kernel.shape.pad_rows(x.rows);
  const std::int64_t steps = (x.cols + kTileDepth - 1) / kTileDepth;
  float* to = x_.reserve(steps * padded * kTileStride);
  team_.parallel_for(padded, kernel.shape.rows, [&](std::int64_t begin, std::int64_t end, int) {
    const std::int64_t count = std::min(end, x.rows) - begin;
    for (std::int64_t i = 0; i < steps; ++i) {
      pack_rows(kernel, x,
                {begin, count, i * kTileDepth, std::min(kTileDepth, x.cols - i * kTileDepth)},
                to + (i * padded + begin) * kTileStride);
    }
  });
}

void CpuVision::multiply_part(const TileKernel& kernel, const Product& product, const Tile& tile,
                              const float* x, Worker& worker) {
  const TileShape& shape = kernel.shape;
  const CpuWeight& weight = product.weight;
  const std::int64_t depth = weight.cols();
  const std::int64_t padded_rows = shape.pad_rows(tile.rows);
  const std::int64_t padded_cols = shape.pad_cols(tile.cols);
  const std::int64_t step_size = shape.pad_rows(product.x.rows) * kTileStride;
  float* panel = worker.panel.reserve(kTileDepth * shape.cols);
  float* sums = worker.sums.reserve(padded_rows * padded_cols);
  for (std::int64_t i = 0; i < depth; i += kTileDepth) {
    const std::int64_t step = std::min(kTileDepth, depth - i);
    const float* rows = x + i / kTileDepth * step_size + tile.row * kTileStride;
    for (std::int64_t c = 0; c < tile.cols; c += shape.cols) {
      const std::int64_t first = (tile.col + c) * depth + i;
      const std::int64_t count = std::min(shape.cols, tile.cols - c);
      if (weight.format() == WeightFormat::kBF16) {
        kernel.pack_bf16(reinterpret_cast<const BF16*>(weight.data) + first, depth, count, step,
                         panel);
      } else {
        kernel.pack_floats(reinterpret_cast<const float*>(weight.data) + first, depth, count, step,
                           panel);
      }
      for (std::int64_t r = 0; r < padded_rows; r += shape.rows) {
        kernel.multiply(rows + r * kTileStride, panel, step, shape.cols, sums + r * padded_cols + c,
                        padded_cols, i > 0);
      }
    }
  }
  float* bias = worker.bias.reserve(kPartCols);
  copy_vector(product.bias, tile.col, tile.cols, bias);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    finish_row(sums + r * padded_cols, bias, tile.cols, product.finish,
               host_row(product.out, tile.row + r) + tile.col);
  }
}

}  // namespace quern::kernels
