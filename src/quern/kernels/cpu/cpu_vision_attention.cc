// Full attention inside segments on the CPU. See cpu_vision.h.
//
// Keys and values of each head are packed into panels once. The unit of work is a block of queries
// of one head: it meets the keys block by block, the softmax is streamed over the blocks,
// ascending from the segment's first key, so that no result depends on anything but its segment.
#include <algorithm>
#include <cmath>
#include <limits>

#include "quern/kernels/cpu/cpu_vision.h"

namespace quern::kernels {
namespace {

constexpr std::int64_t kQueryTiles = 4;         // register tiles of a block of queries
constexpr std::int64_t kKeyBlock = kTileDepth;  // a row of probabilities is a row of x
constexpr std::int64_t kRotateGrain = 8;        // patches

}  // namespace

void CpuVision::begin_patches(const PatchTokens& patches, const PatchAttentionSpec& spec) {
  spec_ = spec;
  rope_.compute(patches, spec);
  plan_segments(patches.segment_ends);
}

void CpuVision::plan_segments(std::span<const std::int64_t> ends) {
  segments_.clear();
  packed_size_ = 0;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    Segment segment{begin, end, 0, 0, 0, 0};
    segment.keys_size = shape_.pad_cols(end - begin) * shape_.pad_depth(spec_.head_dim);
    segment.values_size = shape_.pad_depth(end - begin) * shape_.pad_vector(spec_.head_dim);
    segment.keys = packed_size_;
    segment.values = segment.keys + spec_.num_heads * segment.keys_size;
    packed_size_ = segment.values + spec_.num_heads * segment.values_size;
    segments_.push_back(segment);
    begin = end;
  }
}

void CpuVision::rotate(Matrix heads, std::int64_t patch) const {
  const int pairs = rope_.pairs();
  const float* cos = rope_.cos(patch);
  const float* sin = rope_.sin(patch);
  for (int h = 0; h < spec_.num_heads; ++h) {
    float* head = host_row(heads, patch) + std::int64_t{h} * spec_.head_dim;
    for (int j = 0; j < pairs; ++j) {
      const float a = head[j];
      const float b = head[j + pairs];
      head[j] = round_to_bf16(a * cos[j] - b * sin[j]);
      head[j + pairs] = round_to_bf16(b * cos[j] + a * sin[j]);
    }
  }
}

void CpuVision::pack_head(const Segment& segment, int head, Matrix k, Matrix v) {
  const std::int64_t dim = spec_.head_dim;
  const std::int64_t count = segment.end - segment.begin;
  float* keys = packed_.reserve(packed_size_) + segment.keys + head * segment.keys_size;
  for (std::int64_t j = 0; j < count; j += shape_.cols) {
    kernel_.pack_floats(host_row(k, segment.begin + j) + head * dim, k.cols,
                        std::min(shape_.cols, count - j), dim, keys + j * shape_.pad_depth(dim));
  }
  float* panel = packed_.reserve(packed_size_) + segment.values + head * segment.values_size;
  const std::int64_t padded = shape_.pad_vector(dim);
  for (std::int64_t c = 0; c < padded; c += shape_.cols) {
    const std::int64_t cols = std::min(shape_.cols, padded - c);
    const std::int64_t filled = std::min(cols, dim - c);
    kernel_.pack_values(host_row(v, segment.begin) + head * dim + c, v.cols, count, filled, cols,
                        panel);
    panel += shape_.pad_depth(count) * cols;
  }
}

void CpuVision::attend(Matrix q, Matrix k, Matrix v, Matrix out) {
  packed_.reserve(packed_size_);
  team_.parallel_for(q.rows, kRotateGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t patch = begin; patch < end; ++patch) {
      rotate(q, patch);
      rotate(k, patch);
    }
  });
  const auto heads = static_cast<std::int64_t>(spec_.num_heads);
  const auto segments = static_cast<std::int64_t>(segments_.size());
  team_.parallel_for(segments * heads, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      pack_head(segments_[static_cast<std::size_t>(unit / heads)], static_cast<int>(unit % heads),
                k, v);
    }
  });
  const std::int64_t block = kQueryTiles * shape_.rows;
  for (const Segment& segment : segments_) {
    const std::int64_t blocks = (segment.end - segment.begin + block - 1) / block;
    team_.parallel_for(heads * blocks, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t unit = begin; unit < end; ++unit) {
        attend_rows(segment, static_cast<int>(unit / blocks), segment.begin + unit % blocks * block,
                    q, out, workers_[static_cast<std::size_t>(thread)]);
      }
    });
  }
}

void CpuVision::attend_rows(const Segment& segment, int head, std::int64_t row, Matrix q,
                            Matrix out, Worker& worker) {
  const std::int64_t dim = spec_.head_dim;
  const std::int64_t padded_dim = shape_.pad_vector(dim);
  const std::int64_t count = segment.end - segment.begin;
  const std::int64_t padded_count = shape_.pad_depth(count);
  const std::int64_t rows = std::min(kQueryTiles * shape_.rows, segment.end - row);
  const std::int64_t padded_rows = shape_.pad_rows(rows);
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const float* keys = packed_.reserve(packed_size_) + segment.keys + head * segment.keys_size;
  const float* values = packed_.reserve(packed_size_) + segment.values + head * segment.values_size;

  // Queries in pieces of kTileDepth values of a head, [pieces][padded_rows][kTileStride].
  const std::int64_t piece_size = padded_rows * kTileStride;
  const std::int64_t pieces = (dim + kTileDepth - 1) / kTileDepth;
  float* queries = worker.x.reserve(pieces * piece_size);
  for (std::int64_t p = 0; p < pieces; ++p) {
    const std::int64_t first = p * kTileDepth;
    pack_rows(kernel_, q, {row, rows, head * dim + first, std::min(kTileDepth, dim - first)},
              queries + p * piece_size);
  }
  float* scores = worker.panel.reserve(piece_size);
  float* acc = worker.sums.reserve(padded_rows * padded_dim);
  float* highest = worker.softmax.reserve(2 * padded_rows);
  float* sum = highest + padded_rows;
  std::fill_n(highest, padded_rows, -std::numeric_limits<float>::infinity());
  std::fill_n(sum, padded_rows, 0.0F);

  for (std::int64_t j = 0; j < count; j += kKeyBlock) {
    const std::int64_t some = std::min(kKeyBlock, count - j);
    for (std::int64_t c = 0; c < some; c += shape_.cols) {
      const float* panel = keys + (j + c) * shape_.pad_depth(dim);
      for (std::int64_t r = 0; r < padded_rows; r += shape_.rows) {
        for (std::int64_t p = 0; p < pieces; ++p) {
          kernel_.multiply(queries + p * piece_size + r * kTileStride,
                           panel + p * kTileDepth * shape_.cols,
                           std::min(kTileDepth, dim - p * kTileDepth), shape_.cols,
                           scores + r * kTileStride + c, kTileStride, p > 0);
        }
      }
    }
    for (std::int64_t r = 0; r < padded_rows; ++r) {
      const float rescale =
          stream_softmax_row(scores + r * kTileStride, some, scale, highest[r], sum[r]);
      kernel_.pack_row(scores + r * kTileStride, some, scores + r * kTileStride);
      if (j > 0) scale_row(acc + r * padded_dim, padded_dim, rescale);
    }
    for (std::int64_t c = 0; c < padded_dim; c += shape_.cols) {
      const std::int64_t cols = std::min(shape_.cols, padded_dim - c);
      for (std::int64_t r = 0; r < padded_rows; r += shape_.rows) {
        kernel_.multiply(scores + r * kTileStride, values + c * padded_count + j * cols, some, cols,
                         acc + r * padded_dim + c, padded_dim, j > 0);
      }
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    float* to = host_row(out, row + r) + head * dim;
    for (std::int64_t i = 0; i < dim; ++i) to[i] = round_to_bf16(acc[r * padded_dim + i] / sum[r]);
  }
}

}  // namespace quern::kernels
