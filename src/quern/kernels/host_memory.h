// What back ends on host memory share: matrices, routing and selection tables, the paged KV cache,
// RoPE tables. Must never be included above kernels/. Proved by tests/kernels/parity_test.cc.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/split_mix.h"
#include "quern/kernels/backend.h"
#include "quern/numerics/bf16.h"

namespace quern::kernels {

// Zeroed memory aligned to a cache line; large blocks get pages from the system only when touched.
template <typename T>
class HostArray {
 public:
  HostArray() = default;
  explicit HostArray(std::int64_t size) {
    const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T) + kAlignment;
    storage_.reset(static_cast<std::byte*>(std::calloc(bytes, 1)));
    if (storage_ == nullptr) throw Error("cannot allocate {} bytes", bytes);
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.get());
    const std::uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
    data_ = reinterpret_cast<T*>(storage_.get() + (aligned - address));
  }
  T* data() const { return data_; }

 private:
  static constexpr std::uintptr_t kAlignment = 64;
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte[], Free> storage_;
  T* data_ = nullptr;
};

// Grows, never shrinks: scratch that reaches its final size in the first large step.
template <typename T>
class Scratch {
 public:
  T* reserve(std::int64_t size) {
    if (size > size_) {
      array_ = HostArray<T>(size);
      size_ = size;
    }
    return array_.data();
  }
  T* data() const { return array_.data(); }  // what the last reserve() returned

 private:
  HostArray<T> array_;
  std::int64_t size_ = 0;
};

inline float* host(Matrix matrix) { return static_cast<float*>(matrix.data); }
inline float* host_row(Matrix matrix, std::int64_t row) { return host(matrix) + row * matrix.cols; }

inline float to_float(float value) { return value; }
inline float to_float(BF16 value) { return bf16_to_float(value); }
inline void store(float value, float& slot) { slot = value; }
inline void store(float value, BF16& slot) { slot = float_to_bf16(value); }

// K and V as [block][kv_head][128][head_dim], index keys as [block][128][index_dim]; Element is
// BF16 or float.
template <typename Element>
class HostKvCache final : public KvCache {
 public:
  explicit HostKvCache(const KvCacheSpec& spec) : KvCache(spec) {
    const std::int64_t head_block = std::int64_t{kBlockTokens} * spec.head_dim;
    const std::int64_t main = spec.num_blocks * spec.num_kv_heads * head_block;
    for (const bool has_index : spec.layer_has_index) {
      k_.emplace_back(main);
      v_.emplace_back(main);
      index_.emplace_back(has_index ? std::int64_t{spec.num_blocks} * kBlockTokens * spec.index_dim
                                    : 0);
    }
  }

  Element* k(int layer, int block, int kv_head) const { return head(k_, layer, block, kv_head); }
  Element* v(int layer, int block, int kv_head) const { return head(v_, layer, block, kv_head); }
  Element* index(int layer, int block) const {
    return index_[static_cast<std::size_t>(layer)].data() +
           std::int64_t{block} * kBlockTokens * spec().index_dim;
  }

  static std::int64_t block_bytes(const KvCacheSpec& spec) {
    std::int64_t elements = 0;
    for (const bool has_index : spec.layer_has_index) {
      elements += std::int64_t{2} * spec.num_kv_heads * kBlockTokens * spec.head_dim;
      if (has_index) elements += std::int64_t{kBlockTokens} * spec.index_dim;
    }
    return elements * static_cast<std::int64_t>(sizeof(Element));
  }

  void fill(int layer, int kv_head, int block, float value) {
    const std::int64_t size = std::int64_t{kBlockTokens} * spec().head_dim;
    for (Element* part : {k(layer, block, kv_head), v(layer, block, kv_head)}) {
      for (std::int64_t i = 0; i < size; ++i) store(value, part[i]);
    }
  }

  void fill_random(std::uint64_t seed) {
    const KvCacheSpec& s = spec();
    const std::int64_t main =
        std::int64_t{s.num_blocks} * s.num_kv_heads * kBlockTokens * s.head_dim;
    const std::int64_t index = std::int64_t{s.num_blocks} * kBlockTokens * s.index_dim;
    SplitMix64 words(seed);
    for (std::size_t layer = 0; layer < k_.size(); ++layer) {
      fill_random(words, k_[layer].data(), main);
      fill_random(words, v_[layer].data(), main);
      if (s.layer_has_index[layer]) fill_random(words, index_[layer].data(), index);
    }
  }

 private:
  // Four values of 16 bits a word, uniform in +-sqrt(3): their variance is 1.
  static void fill_random(SplitMix64& words, Element* out, std::int64_t count) {
    constexpr float kScale = 1.7320508F / 32768.0F;
    std::uint64_t word = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      word = i % 4 == 0 ? words.next() : word >> 16;
      store(static_cast<float>(static_cast<std::int16_t>(word)) * kScale, out[i]);
    }
  }

  Element* head(const std::vector<HostArray<Element>>& layers, int layer, int block,
                int kv_head) const {
    const std::int64_t row = std::int64_t{block} * spec().num_kv_heads + kv_head;
    return layers[static_cast<std::size_t>(layer)].data() + row * kBlockTokens * spec().head_dim;
  }

  std::vector<HostArray<Element>> k_, v_, index_;
};

// cos and sin of position * theta^(-2j/rotary_dim), j < rotary_dim / 2, one row a token of the
// step. Angles in float32; `bf16` rounds the table as vLLM and transformers store it.
class RopeTable {
 public:
  void compute(std::span<const std::int32_t> positions, const RopeSpec& rope, bool bf16) {
    half_ = rope.rotary_dim / 2;
    frequencies_.resize(static_cast<std::size_t>(half_));
    for (int j = 0; j < half_; ++j) {
      const float exponent = static_cast<float>(2 * j) / static_cast<float>(rope.rotary_dim);
      frequencies_[static_cast<std::size_t>(j)] = 1.0F / std::pow(rope.theta, exponent);
    }
    table_.resize(positions.size() * static_cast<std::size_t>(rope.rotary_dim));
    float* out = table_.data();
    for (const std::int32_t position : positions) {
      for (int j = 0; j < half_; ++j) {
        const float angle =
            static_cast<float>(position) * frequencies_[static_cast<std::size_t>(j)];
        out[j] = bf16 ? round_to_bf16(std::cos(angle)) : std::cos(angle);
        out[half_ + j] = bf16 ? round_to_bf16(std::sin(angle)) : std::sin(angle);
      }
      out += rope.rotary_dim;
    }
  }

  // [rotary_dim / 2] each.
  const float* cos(std::int64_t token) const { return table_.data() + token * 2 * half_; }
  const float* sin(std::int64_t token) const { return cos(token) + half_; }
  int half() const { return half_; }

 private:
  int half_ = 0;
  std::vector<float> frequencies_;
  std::vector<float> table_;
};

// Allocation, copies and the step's tokens, for any back end whose device memory is the host's.
template <typename Element>
class HostBackend : public Backend {
 public:
  using Cache = HostKvCache<Element>;

  explicit HostBackend(bool bf16_activations) : bf16_activations_(bf16_activations) {}

  Matrix allocate(std::int64_t rows, std::int64_t cols) final {
    floats_.emplace_back(rows * cols);
    return {floats_.back().data(), rows, cols};
  }

  Routing allocate_routing(std::int64_t tokens, int experts_per_token) final {
    floats_.emplace_back(tokens * experts_per_token);
    ints_.emplace_back(tokens * experts_per_token);
    return {ints_.back().data(), floats_.back().data()};
  }

  BlockSelection allocate_selection(std::int64_t tokens, int num_kv_heads, int topk_blocks) final {
    ints_.emplace_back(tokens * num_kv_heads * topk_blocks);
    return {ints_.back().data()};
  }

  std::unique_ptr<KvCache> create_kv_cache(const KvCacheSpec& spec) final {
    return std::make_unique<Cache>(spec);
  }

  std::int64_t kv_block_bytes(const KvCacheSpec& spec) const final {
    return Cache::block_bytes(spec);
  }

  void write(Matrix matrix, std::int64_t row, std::span<const float> values) final {
    const auto count = static_cast<std::int64_t>(values.size());
    QUERN_CHECK(row >= 0 && count % matrix.cols == 0 && row + count / matrix.cols <= matrix.rows);
    float* out = host_row(matrix, row);
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = bf16_activations_ ? round_to_bf16(values[static_cast<std::size_t>(i)])
                                 : values[static_cast<std::size_t>(i)];
  }

  void read(Matrix matrix, std::int64_t row, std::span<float> values) final {
    QUERN_CHECK(row < matrix.rows && static_cast<std::int64_t>(values.size()) <= matrix.cols);
    std::memcpy(values.data(), host_row(matrix, row), values.size_bytes());
  }
  void read(const Routing& routing, std::int64_t count, std::span<std::int32_t> experts) final {
    std::memcpy(experts.data(), routing.experts,
                static_cast<std::size_t>(count) * sizeof(std::int32_t));
  }
  void read(const BlockSelection& selection, std::int64_t count,
            std::span<std::int32_t> blocks) final {
    std::memcpy(blocks.data(), selection.blocks,
                static_cast<std::size_t>(count) * sizeof(std::int32_t));
  }
  void fill_kv_block(KvCache& cache, int layer, int kv_head, int block, float value) final {
    static_cast<Cache&>(cache).fill(layer, kv_head, block, value);
  }
  void fill_kv_random(KvCache& cache, std::uint64_t seed) final {
    static_cast<Cache&>(cache).fill_random(seed);
  }

 protected:
  static Cache& host_cache(KvCache& cache) { return static_cast<Cache&>(cache); }
  static const Cache& host_cache(const KvCache& cache) { return static_cast<const Cache&>(cache); }

  void set_step(const StepTokens& tokens, const RopeSpec& rope, bool bf16_rope) {
    tokens_ = tokens;
    rope_.compute(tokens.positions, rope, bf16_rope);
  }

  std::int64_t num_tokens() const { return static_cast<std::int64_t>(tokens_.token_ids.size()); }
  std::int32_t position(std::int64_t token) const {
    return tokens_.positions[static_cast<std::size_t>(token)];
  }
  // The block ids of the sequence that `token` belongs to.
  const std::int32_t* block_table(std::int64_t token) const {
    return tokens_.block_tables.data() +
           tokens_.sequences[static_cast<std::size_t>(token)] * tokens_.table_stride;
  }

  StepTokens tokens_;
  RopeTable rope_;

 private:
  bool bf16_activations_;
  std::vector<HostArray<float>> floats_;
  std::vector<HostArray<std::int32_t>> ints_;
};

}  // namespace quern::kernels
