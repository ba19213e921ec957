// The vision operations of the CPU back end, with each instruction set of this machine and several
// thread counts, against the naive ones.
//
// Bounds. Both round to BF16 at the same points and differ in the float32 sums in front by at most
// n 2^-24 of the sum of magnitudes (n <= 1,280: 2^-14). So a value may land on the neighbouring
// BF16 number, one unit or 2^-7 of it, where the exact sum lies that close to the middle: about
// 2 * 2^-14 / 2^-8 = 3% of values at the very worst, in practice (errors of sums grow with the root
// of n) far below the 1% that is allowed here.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cmath>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "quern/kernels/cpu/gemm_tile.h"
#include "quern/kernels/factory.h"
#include "quern/kernels/vision_backend.h"
#include "quern/numerics/bf16.h"
#include "tests/numerics/targets.h"

namespace quern::kernels {
namespace {

constexpr unsigned kSeed = 11;
constexpr float kOneUnit = 0x1p-7F;

// Random inputs that outlive the back ends.
class Data {
 public:
  std::vector<float> activations(std::int64_t count, float scale = 1.0F) {
    std::normal_distribution<float> normal(0.0F, scale);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = round_to_bf16(normal(random_));
    return values;
  }
  WeightSource bf16(std::int64_t rows, std::int64_t cols, float scale, float offset = 0.0F) {
    auto& store = bf16_.emplace_back(static_cast<std::size_t>(rows * cols));
    std::normal_distribution<float> normal(offset, scale);
    for (BF16& value : store) value = float_to_bf16(normal(random_));
    return {WeightFormat::kBF16,
            {DType::kBF16, {rows, cols}, reinterpret_cast<const std::byte*>(store.data())},
            {}};
  }
  WeightSource f32(std::int64_t rows, std::int64_t cols, float scale) {
    auto& store = f32_.emplace_back(static_cast<std::size_t>(rows * cols));
    std::normal_distribution<float> normal(0.0F, scale);
    for (float& value : store) value = normal(random_);
    return {WeightFormat::kF32,
            {DType::kF32, {rows, cols}, reinterpret_cast<const std::byte*>(store.data())},
            {}};
  }

 private:
  std::mt19937 random_{kSeed};
  std::deque<std::vector<BF16>> bf16_;
  std::deque<std::vector<float>> f32_;
};

Matrix upload(Backend& backend, const std::vector<float>& values, std::int64_t cols) {
  const Matrix matrix = backend.allocate(static_cast<std::int64_t>(values.size()) / cols, cols);
  backend.write(matrix, 0, values);
  return matrix;
}

std::vector<float> read(Backend& backend, Matrix matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
  const auto cols = static_cast<std::size_t>(matrix.cols);
  for (std::int64_t r = 0; r < matrix.rows; ++r)
    backend.read(matrix, r, std::span(values).subspan(static_cast<std::size_t>(r) * cols, cols));
  return values;
}

// Ranks with and without matrix units fit together when none of them has a tower.
TEST(CpuArithmetic, MatrixUnitsCountWithATower) {
  EXPECT_EQ(cpu_arithmetic(true) != cpu_arithmetic(false), amx_tile_kernel() != nullptr);
}

using Run = std::function<std::vector<float>(Backend&)>;

// Runs on the oracle, then on every instruction set and thread count.
void on_all(const Run& run, const std::function<void(const std::vector<float>& fast,
                                                     const std::vector<float>& exact)>& expect) {
  const auto oracle = make_reference_backend(Rounding::kBF16);
  const std::vector<float> exact = run(*oracle);
  for_each_simd_target([&] {
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(threads);
      CpuOptions options;
      options.num_threads = threads;
      options.tile_unit = TileUnit::kVectors;
      expect(run(*make_cpu_backend(options)), exact);
    }
  });
  for (const int threads : {1, 3}) {  // with matrix units where there are some
    SCOPED_TRACE(testing::Message() << "default, " << threads);
    expect(run(*make_cpu_backend({threads, MoeBackend::kNative})), exact);
  }
}

// All but 1% equal, the others neighbours; `noise` is the float error of values near zero.
void expect_neighbours(const std::vector<float>& fast, const std::vector<float>& exact,
                       float noise) {
  ASSERT_EQ(fast.size(), exact.size());
  std::size_t different = 0;
  for (std::size_t i = 0; i < fast.size(); ++i) {
    different += fast[i] != exact[i] ? 1 : 0;
    ASSERT_LE(std::abs(fast[i] - exact[i]), kOneUnit * std::abs(exact[i]) + noise) << i;
  }
  EXPECT_LE(different, fast.size() / 100 + 2) << "of " << fast.size();
}

TEST(VisionParity, LayerNorm) {
  for (const std::int64_t cols : {1, 64, 77, 1280}) {
    Data data;
    const auto x = data.activations(9 * cols, 3.0F);
    const WeightSource weight = data.bf16(cols, 1, 0.2F, 1.0F);
    const WeightSource bias = data.bf16(cols, 1, 0.2F);
    on_all(
        [&](Backend& b) {
          const LayerNormWeights weights{b.bind(weight), b.bind(bias)};
          const Matrix in = upload(b, x, cols);
          const Matrix out = b.allocate(in.rows, cols);
          b.vision().layer_norm(weights, 1e-5F, in, out);
          return read(b, out);
        },
        [](const auto& fast, const auto& exact) { expect_neighbours(fast, exact, 1e-5F); });
  }
}

struct ProductCase {
  std::int64_t patches, rows, cols;
  bool f32, bias;
};

TEST(VisionParity, Affine) {
  // Tile edges: 14 x 32, 6 x 16, 6 x 8 and 32 x 32, depth 192, parts of 378 and 768 x 256.
  const ProductCase cases[] = {{1, 1, 1, false, true},      {13, 31, 191, false, true},
                               {14, 32, 192, false, false}, {15, 33, 193, false, true},
                               {5, 300, 1176, false, true}, {400, 40, 64, false, true},
                               {800, 70, 200, false, true}, {33, 64, 96, false, false},
                               {20, 64, 256, true, true},   {3, 257, 385, true, false}};
  for (const ProductCase& c : cases) {
    SCOPED_TRACE(testing::Message() << c.patches << " x " << c.rows << " x " << c.cols);
    Data data;
    const auto x = data.activations(c.patches * c.cols);
    const float scale = 1.0F / std::sqrt(static_cast<float>(c.cols));
    const WeightSource weight =
        c.f32 ? data.f32(c.rows, c.cols, scale) : data.bf16(c.rows, c.cols, scale);
    const WeightSource bias = data.bf16(c.rows, 1, 0.5F);
    on_all(
        [&](Backend& b) {
          const Affine affine{b.bind(weight), c.bias ? b.bind(bias) : nullptr};
          const Matrix out = b.allocate(c.patches, c.rows);
          b.vision().affine(affine, Activation::kNone, upload(b, x, c.cols), out);
          return read(b, out);
        },
        [](const auto& fast, const auto& exact) { expect_neighbours(fast, exact, 1e-5F); });
  }
}

TEST(VisionParity, AddAffineRoundsTheProductThenTheSum) {
  Data data;
  const auto x = data.activations(30 * 80);
  const auto residual = data.activations(30 * 50, 8.0F);
  const WeightSource weight = data.bf16(50, 80, 0.1F);
  const WeightSource bias = data.bf16(50, 1, 0.5F);
  on_all(
      [&](Backend& b) {
        const Affine affine{b.bind(weight), b.bind(bias)};
        const Matrix out = upload(b, residual, 50);
        b.vision().add_affine(affine, upload(b, x, 80), out);
        return read(b, out);
      },
      // A neighbouring product moves the sum by a unit of the product.
      [](const auto& fast, const auto& exact) { expect_neighbours(fast, exact, 5 * kOneUnit); });
}

TEST(VisionParity, GeluIsExactForEveryBf16Number) {
  // Through an identity: the sums are exact, so every bit has to be equal.
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_float({static_cast<std::uint16_t>(bits)});
    if (std::isfinite(value)) x.push_back(value);
  }
  constexpr std::int64_t kSide = 32;
  x.resize(x.size() / kSide * kSide);
  std::vector<BF16> identity(kSide * kSide);
  for (std::size_t i = 0; i < kSide; ++i) identity[i * kSide + i] = float_to_bf16(1.0F);
  const WeightSource weight{
      WeightFormat::kBF16,
      {DType::kBF16, {kSide, kSide}, reinterpret_cast<const std::byte*>(identity.data())},
      {}};
  on_all(
      [&](Backend& b) {
        const Affine affine{b.bind(weight), nullptr};
        const Matrix in = upload(b, x, kSide);
        const Matrix out = b.allocate(in.rows, kSide);
        b.vision().affine(affine, Activation::kGelu, in, out);
        return read(b, out);
      },
      [&](const auto& fast, const auto& exact) {
        for (std::size_t i = 0; i < fast.size(); ++i) {
          // Matrix units take subnormal numbers for zeros.
          if (std::fpclassify(x[i]) == FP_SUBNORMAL && fast[i] == 0) continue;
          ASSERT_EQ(fast[i], exact[i]) << x[i];
        }
      });
}

TEST(VisionParity, PatchEmbeddingIsRoundedToBf16) {
  Data data;
  const auto x = data.activations(7 * 24);
  WeightSource weight = data.f32(40, 24, 0.2F);
  weight.weight.shape = {40, 3, 2, 2, 2};
  on_all(
      [&](Backend& b) {
        const Affine affine{b.vision().bind_patch_embedding(weight.weight), nullptr};
        const Matrix out = b.allocate(7, 40);
        b.vision().affine(affine, Activation::kNone, upload(b, x, 24), out);
        return read(b, out);
      },
      [](const auto& fast, const auto& exact) { expect_neighbours(fast, exact, 1e-5F); });
}

struct AttentionCase {
  int heads, dim;
  std::vector<std::int64_t> segments;  // patches of each
};

// Positions of a segment of a grid of width 6, t = row / 5.
std::vector<std::int32_t> coordinates_of(const AttentionCase& c) {
  std::vector<std::int32_t> all;
  for (const std::int64_t count : c.segments) {
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(count); ++i)
      all.insert(all.end(), {i / 30, i / 6 % 5, i % 6});
  }
  return all;
}

std::vector<float> attend(Backend& b, const AttentionCase& c, const std::vector<float>& qkv) {
  const auto coordinates = coordinates_of(c);
  std::vector<std::int64_t> ends;
  for (const std::int64_t count : c.segments)
    ends.push_back((ends.empty() ? 0 : ends.back()) + count);
  const std::int64_t width = std::int64_t{c.heads} * c.dim;
  const auto size = static_cast<std::size_t>(ends.back() * width);
  const auto part = [&](std::size_t i) {
    return upload(b,
                  {qkv.begin() + static_cast<std::ptrdiff_t>(i * size),
                   qkv.begin() + static_cast<std::ptrdiff_t>((i + 1) * size)},
                  width);
  };
  b.vision().begin_patches({coordinates, ends}, {c.heads, c.dim, 10000.0F});
  const Matrix out = b.allocate(ends.back(), width);
  b.vision().attend(part(0), part(1), part(2), out);
  return read(b, out);
}

TEST(VisionParity, Attention) {
  // Head sizes: real, tiny, odd, without any pair, beyond the depth of a tile; segments across
  // blocks of 192 keys and of one patch.
  const AttentionCase cases[] = {{2, 80, {200, 1, 60, 193}},
                                 {4, 16, {64}},
                                 {1, 21, {30, 15}},
                                 {2, 4, {20}},
                                 {1, 208, {33}},
                                 {1, 64, {400}}};
  for (const AttentionCase& c : cases) {
    SCOPED_TRACE(testing::Message() << "head size " << c.dim);
    Data data;
    std::int64_t patches = 0;
    for (const std::int64_t count : c.segments) patches += count;
    const auto qkv = data.activations(3 * patches * c.heads * c.dim);
    on_all([&](Backend& b) { return attend(b, c, qkv); },
           [](const auto& fast, const auto& exact) {
             // Probabilities are rounded relative to the largest of the keys so far, not of all:
             // each may differ by a BF16 unit, and the weighted mean of values of at most 5 by half
             // of that; then one rounding of the result.
             for (std::size_t i = 0; i < fast.size(); ++i)
               ASSERT_NEAR(fast[i], exact[i], 0x1p-8F + kOneUnit * std::abs(exact[i])) << i;
           });
  }
}

TEST(VisionParity, ASegmentDoesNotDependOnTheOthersOrOnThreads) {
  const AttentionCase all{2, 80, {200, 1, 60, 193}};
  Data data;
  const std::int64_t width = 160, patches = 454;
  const auto qkv = data.activations(3 * patches * width);
  const auto one = make_cpu_backend({1, MoeBackend::kNative});
  const auto three = make_cpu_backend({3, MoeBackend::kNative});
  const std::vector<float> together = attend(*one, all, qkv);
  EXPECT_EQ(together, attend(*three, all, qkv));
  std::int64_t first = 0;
  for (const std::int64_t count : all.segments) {
    std::vector<float> own;
    for (std::int64_t m = 0; m < 3; ++m) {
      const auto begin = qkv.begin() + (m * patches + first) * width;
      own.insert(own.end(), begin, begin + count * width);
    }
    const std::vector<float> alone = attend(*three, {2, 80, {count}}, own);
    const auto begin = together.begin() + first * width;
    EXPECT_EQ(alone, std::vector<float>(begin, begin + count * width));
    first += count;
  }
}

}  // namespace
}  // namespace quern::kernels
