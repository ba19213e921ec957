// The CPU back end, with each MoE backend and thread count, against the naive one, operation by
// operation.
//
// Bounds. Both round to BF16 (u = 2^-8 of the value) at the same points. The sums in front differ
// by float32 summation order: at most (n + 4) 2^-24 of the sum of magnitudes, which can move a
// result across one rounding boundary, so an output may differ by one BF16 unit, 2^-7 of its value,
// plus the float error itself. Where several roundings follow one another the bound is their number
// times that; it is written at each test.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "quern/kernels/cpu/mxfp4_dot.h"
#include "quern/kernels/factory.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

constexpr unsigned kSeed = 7;
constexpr float kOneUnit = 0x1p-7F;

struct Device {
  const char* name;
  CpuOptions options;
};
// Every thread count, and every kernel that this machine can run, forced.
std::vector<Device> devices() {
  std::vector<Device> list = {
      {"native, 1 thread", {1, MoeBackend::kNative}},
      {"native, 3 threads", {3, MoeBackend::kNative}},
      {"emulation, 2 threads", {2, MoeBackend::kEmulation}},
  };
  for (const Mxfp4Kernel& kernel : mxfp4_kernels())
    list.push_back({kernel.name, {2, MoeBackend::kNative, kernel.instruction_set}});
  return list;
}
const std::vector<Device> kDevices = devices();
const Device kThreadCounts[] = {{"1 thread", {1}}, {"2 threads", {2}}, {"3 threads", {3}}};

// Weights in host memory that outlive the back ends.
class Weights {
 public:
  explicit Weights(unsigned seed) : random_(seed) {}

  WeightSource bf16(std::int64_t rows, std::int64_t cols, float scale) {
    auto& store = bf16_.emplace_back(static_cast<std::size_t>(rows * cols));
    std::normal_distribution<float> normal(0.0F, scale);
    for (BF16& value : store) value = float_to_bf16(normal(random_));
    return {WeightFormat::kBF16, {DType::kBF16, {rows, cols}, bytes(store)}, {}};
  }
  WeightSource f32(std::int64_t rows, std::int64_t cols, float scale) {
    auto& store = f32_.emplace_back(static_cast<std::size_t>(rows * cols));
    std::normal_distribution<float> normal(0.0F, scale);
    for (float& value : store) value = normal(random_);
    return {WeightFormat::kF32, {DType::kF32, {rows, cols}, bytes(store)}, {}};
  }
  WeightSource mxfp4(std::int64_t rows, std::int64_t cols, float scale, WeightFormat format) {
    const WeightSource source = bf16(rows, cols, scale);
    auto& packed = u8_.emplace_back(static_cast<std::size_t>(rows * cols / 2));
    auto& scales = u8_.emplace_back(static_cast<std::size_t>(rows * cols / 32));
    EXPECT_TRUE(
        mxfp4_encode_row(std::span(source.weight.as<BF16>(), packed.size() * 2), packed, scales));
    return {format,
            {DType::kU8, {rows, cols / 2}, bytes(packed)},
            {DType::kU8, {rows, cols / 32}, bytes(scales)}};
  }
  WeightSource any(std::int64_t rows, std::int64_t cols, float scale, WeightFormat format) {
    if (format == WeightFormat::kBF16) return bf16(rows, cols, scale);
    if (format == WeightFormat::kF32) return f32(rows, cols, scale);
    return mxfp4(rows, cols, scale, format);
  }
  std::vector<float> activations(std::int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = round_to_bf16(normal(random_));
    return values;
  }

 private:
  template <typename T>
  static const std::byte* bytes(const std::vector<T>& store) {
    return reinterpret_cast<const std::byte*>(store.data());
  }
  std::mt19937 random_;
  std::deque<std::vector<BF16>> bf16_;
  std::deque<std::vector<float>> f32_;
  std::deque<std::vector<std::uint8_t>> u8_;
};

// A back end with a step of `tokens` tokens of one sequence begun, ending at position `last`.
struct Bench {
  Bench(std::unique_ptr<Backend> device, std::int64_t tokens, std::int32_t last, int rotary_dim)
      : backend(std::move(device)) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      ids.push_back(static_cast<std::int32_t>(t % 5));
      positions.push_back(last - static_cast<std::int32_t>(tokens - 1 - t));
      sequences.push_back(0);
    }
    for (std::int32_t b = last / kBlockTokens; b >= 0; --b) table.push_back(b);
    backend->begin_step({ids, positions, sequences, table, static_cast<std::int64_t>(table.size())},
                        {rotary_dim, 5e6F});
  }
  // Both host back ends keep activations as float; a device would upload here.
  Matrix upload(const std::vector<float>& values, std::int64_t cols) {
    const Matrix m = backend->allocate(static_cast<std::int64_t>(values.size()) / cols, cols);
    std::copy(values.begin(), values.end(), static_cast<float*>(m.data));
    return m;
  }
  std::vector<float> read(Matrix m) {
    std::vector<float> values(static_cast<std::size_t>(m.rows * m.cols));
    for (std::int64_t r = 0; r < m.rows; ++r) {
      backend->read(m, r,
                    std::span(values).subspan(static_cast<std::size_t>(r * m.cols),
                                              static_cast<std::size_t>(m.cols)));
    }
    return values;
  }
  std::unique_ptr<Backend> backend;
  std::vector<std::int32_t> ids, positions, sequences, table;
};

// Largest |a - b| over the root mean square of b.
float relative_to_rms(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0, worst = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    squares += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    if (std::isnan(a[i]) != std::isnan(b[i])) return std::numeric_limits<float>::infinity();
  }
  return static_cast<float>(worst / std::sqrt(squares / static_cast<double>(b.size())));
}

template <typename Run>
void compare(std::int64_t tokens, std::int32_t last, int rotary_dim, float bound, const char* what,
             Run&& run) {
  Bench reference(make_reference_backend(Rounding::kBF16), tokens, last, rotary_dim);
  const std::vector<float> expected = run(reference);
  for (const Device& device : kDevices) {
    Bench fast(make_cpu_backend(device.options), tokens, last, rotary_dim);
    EXPECT_LE(relative_to_rms(run(fast), expected), bound)
        << what << ", " << tokens << " tokens, " << device.name;
  }
}

// A normal value of rms 1 is at most 5 or so: one unit of the largest is 5 * 2^-7 of the rms.
constexpr float kPeak = 5.5F;

TEST(KernelParity, Norms) {
  for (const std::int64_t tokens : {1, 5, 33}) {
    compare(tokens, 200, 16, kPeak * kOneUnit, "add_rms_norm", [&](Bench& b) {
      Weights w(kSeed);
      const WeightHandle norm = b.backend->bind(w.bf16(192, 1, 0.1F));
      const Matrix x = b.upload(w.activations(tokens * 192), 192);
      const Matrix residual = b.upload(w.activations(tokens * 192), 192);
      const Matrix out = b.backend->allocate(tokens, 192);
      b.backend->add_rms_norm(x, residual, *norm, 1e-6F, out);
      std::vector<float> both = b.read(out);
      const std::vector<float> stream = b.read(residual);
      both.insert(both.end(), stream.begin(), stream.end());
      return both;
    });
  }
}

TEST(KernelParity, LinearAllFormats) {
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kMxfp4,
                                    WeightFormat::kMxfp4WeightOnly}) {
    for (const std::int64_t tokens : {1, 2, 3, 25, 60}) {
      compare(tokens, 100, 16, kPeak * kOneUnit, "linear", [&](Bench& b) {
        Weights w(kSeed);
        const WeightHandle weight = b.backend->bind(w.any(70, 320, 0.06F, format));
        const Matrix x = b.upload(w.activations(tokens * 320), 320);
        const Matrix out = b.backend->allocate(tokens, 70);
        b.backend->linear(*weight, x, out);
        return b.read(out);
      });
    }
  }
}

MlpWeights expert(Backend& backend, Weights& w, WeightFormat format) {
  MlpWeights e;
  e.gate_proj = backend.bind(w.any(64, 192, 0.15F, format));
  e.up_proj = backend.bind(w.any(64, 192, 0.15F, format));
  e.down_proj = backend.bind(w.any(192, 64, 0.15F, format));
  return e;
}

// Between x and the output lie gate/up, activation, the quantization of the activation for MXFP4 (a
// unit there can move a value to the next E2M1 step, a third of it, one value in 64), down, and
// four roundings of the sum.
TEST(KernelParity, MoeAllFormats) {
  for (const WeightFormat format :
       {WeightFormat::kBF16, WeightFormat::kMxfp4, WeightFormat::kMxfp4WeightOnly}) {
    for (const bool shared : {true, false}) {
      for (const std::int64_t tokens : {1, 7, 530}) {
        const float bound = format == WeightFormat::kMxfp4 ? 0.5F : 6 * kPeak * kOneUnit;
        compare(tokens, 600, 16, bound, "moe", [&](Bench& b) {
          Weights w(kSeed);
          MoeWeights weights;
          const MoeSpec spec{6, 2, 2.0F, {1.702F, 1.0F, 7.0F}};
          weights.gate = b.backend->bind(w.f32(6, 192, 0.07F));
          weights.correction_bias = b.backend->bind(w.f32(6, 1, 0.1F));
          for (int e = 0; e < 6; ++e) weights.experts.push_back(expert(*b.backend, w, format));
          if (shared) weights.shared = expert(*b.backend, w, format);
          const Matrix x = b.upload(w.activations(tokens * 192), 192);
          const Matrix out = b.backend->allocate(tokens, 192);
          const Routing routing = b.backend->allocate_routing(tokens, 2);
          b.backend->route(weights, spec, x, routing);
          b.backend->moe(weights, spec, x, routing, out);
          return b.read(out);
        });
      }
    }
  }
}

TEST(KernelParity, DenseMlp) {
  compare(9, 100, 16, 4 * kPeak * kOneUnit, "mlp", [&](Bench& b) {
    Weights w(kSeed);
    const MlpWeights weights = expert(*b.backend, w, WeightFormat::kBF16);
    const Matrix x = b.upload(w.activations(9 * 192), 192);
    const Matrix out = b.backend->allocate(9, 192);
    b.backend->mlp(weights, {1.702F, 1.0F, 7.0F}, x, out);
    return b.read(out);
  });
}

struct AttentionShape {
  int heads, kv_heads, head_dim, rotary_dim, index_dim, topk;
  bool qk_norm;
};

// Full and block-sparse attention over 700 positions, the last `tokens` of which are compared.
// Between x and the output lie the rounding of q, k and v, of P (one unit each, averaged over the
// keys) and of the result.
std::vector<float> attention(Bench& b, const AttentionShape& s, std::int64_t tokens, bool sparse,
                             std::vector<std::int32_t>* blocks) {
  Weights w(kSeed);
  const std::int64_t hidden = 96;
  AttentionSpec spec{
      0,           s.heads, s.kv_heads, s.head_dim, 1e-6F, s.qk_norm, sparse ? s.kv_heads : 0,
      s.index_dim, s.topk,  0,          1};
  AttentionWeights weights;
  const auto linear = [&](std::int64_t rows) {
    return b.backend->bind(w.bf16(rows, hidden, 0.1F));
  };
  const auto norm = [&](std::int64_t rows) { return b.backend->bind(w.bf16(rows, 1, 0.2F)); };
  weights.q_proj = linear(s.heads * s.head_dim);
  weights.k_proj = linear(s.kv_heads * s.head_dim);
  weights.v_proj = linear(s.kv_heads * s.head_dim);
  weights.q_norm = norm(s.head_dim);
  weights.k_norm = norm(s.head_dim);
  weights.index_q_proj = linear(s.kv_heads * s.index_dim);
  weights.index_k_proj = linear(s.index_dim);
  weights.index_q_norm = norm(s.index_dim);
  weights.index_k_norm = norm(s.index_dim);
  const auto cache = b.backend->create_kv_cache(
      {static_cast<int>(b.table.size()), s.kv_heads, s.head_dim, s.index_dim, {true}});
  const Matrix x = b.upload(w.activations(tokens * hidden), hidden);
  const Matrix q = b.backend->allocate(tokens, s.heads * s.head_dim);
  const Matrix index_q = b.backend->allocate(tokens, s.kv_heads * s.index_dim);
  const Matrix out = b.backend->allocate(tokens, s.heads * s.head_dim);
  const BlockSelection selection = b.backend->allocate_selection(tokens, s.kv_heads, s.topk);
  b.backend->project_qkv(weights, spec, x, *cache, q, index_q);
  if (sparse) b.backend->select_blocks(spec, index_q, *cache, selection);
  b.backend->attend(spec, q, *cache, sparse ? &selection : nullptr, out);
  if (blocks != nullptr) {
    blocks->resize(static_cast<std::size_t>(tokens * s.kv_heads * s.topk));
    b.backend->read(selection, static_cast<std::int64_t>(blocks->size()), *blocks);
  }
  return b.read(out);
}

TEST(KernelParity, Attention) {
  const AttentionShape shapes[] = {
      {8, 2, 32, 16, 32, 3, true}, {4, 4, 16, 16, 16, 2, true}, {16, 1, 128, 64, 128, 4, true}};
  for (const AttentionShape& s : shapes) {
    for (const bool sparse : {false, true}) {
      Bench reference(make_reference_backend(Rounding::kBF16), 700, 699, s.rotary_dim);
      std::vector<std::int32_t> expected_blocks;
      const std::vector<float> expected = attention(reference, s, 700, sparse, &expected_blocks);
      for (const Device& device : kThreadCounts) {
        Bench fast(make_cpu_backend(device.options), 700, 699, s.rotary_dim);
        std::vector<std::int32_t> blocks;
        const std::vector<float> out = attention(fast, s, 700, sparse, &blocks);
        if (!sparse) {
          EXPECT_LE(relative_to_rms(out, expected), 4 * kPeak * kOneUnit) << device.name;
          continue;
        }
        // A rounding of q or k can swap two blocks of nearly equal score; rows with equal
        // selections are compared.
        const std::int64_t row = std::int64_t{s.kv_heads} * s.topk;
        const std::int64_t cols = std::int64_t{s.heads} * s.head_dim;
        std::vector<float> same_out, same_expected;
        std::int64_t differ = 0;
        for (std::int64_t t = 0; t < 700; ++t) {
          if (!std::equal(blocks.begin() + t * row, blocks.begin() + (t + 1) * row,
                          expected_blocks.begin() + t * row)) {
            ++differ;
            continue;
          }
          same_out.insert(same_out.end(), out.begin() + t * cols, out.begin() + (t + 1) * cols);
          same_expected.insert(same_expected.end(), expected.begin() + t * cols,
                               expected.begin() + (t + 1) * cols);
        }
        EXPECT_LE(differ, 7) << device.name;  // 1 %
        EXPECT_LE(relative_to_rms(same_out, same_expected), 4 * kPeak * kOneUnit) << device.name;
      }
    }
  }
}

// More index heads than are scored together select as the naive back end does.
TEST(KernelParity, ManyIndexHeads) {
  const AttentionShape shape{70, 70, 8, 8, 8, 2, true};
  const std::int64_t tokens = 390;  // four blocks
  std::vector<std::int32_t> expected, blocks;
  Bench reference(make_reference_backend(Rounding::kBF16), tokens, 389, 8);
  attention(reference, shape, tokens, true, &expected);
  Bench fast(make_cpu_backend({2}), tokens, 389, 8);
  attention(fast, shape, tokens, true, &blocks);
  std::int64_t differ = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i) differ += blocks[i] != expected[i] ? 1 : 0;
  EXPECT_LE(differ, static_cast<std::int64_t>(blocks.size()) / 100);  // nearly equal scores
}

// Whatever the instruction set and the number of tokens beside it: the same bits.
TEST(CpuBackend, MoeDoesNotDependOnTheInstructionSetOrTheBatch) {
  const auto run = [](const CpuOptions& options, std::int64_t tokens) {
    Bench b(make_cpu_backend(options), tokens, 600, 16);
    Weights w(kSeed);
    MoeWeights weights;
    const MoeSpec spec{6, 2, 2.0F, {1.702F, 1.0F, 7.0F}};
    weights.gate = b.backend->bind(w.f32(6, 192, 0.07F));
    for (int e = 0; e < 6; ++e)
      weights.experts.push_back(expert(*b.backend, w, WeightFormat::kMxfp4));
    const Matrix x = b.upload(w.activations(tokens * 192), 192);
    const Matrix out = b.backend->allocate(tokens, 192);
    const Routing routing = b.backend->allocate_routing(tokens, 2);
    b.backend->route(weights, spec, x, routing);
    b.backend->moe(weights, spec, x, routing, out);
    return b.read(out);
  };
  const std::vector<float> expected = run({1, MoeBackend::kNative, InstructionSet::kGeneric}, 60);
  for (const Mxfp4Kernel& kernel : mxfp4_kernels()) {
    for (const std::int64_t tokens : {1, 2, 5, 60}) {
      const std::vector<float> out = run({2, MoeBackend::kNative, kernel.instruction_set}, tokens);
      EXPECT_TRUE(std::equal(out.begin(), out.end(), expected.begin()))
          << kernel.name << ", " << tokens << " tokens";
    }
  }
}

// Whatever the threads: the same bits.
TEST(CpuBackend, ResultsDoNotDependOnThreads) {
  const AttentionShape s{8, 2, 32, 16, 32, 3, true};
  Bench one(make_cpu_backend({1, MoeBackend::kNative}), 300, 299, 16);
  Bench three(make_cpu_backend({3, MoeBackend::kNative}), 300, 299, 16);
  EXPECT_EQ(attention(one, s, 300, true, nullptr), attention(three, s, 300, true, nullptr));
}

}  // namespace
}  // namespace quern::kernels
