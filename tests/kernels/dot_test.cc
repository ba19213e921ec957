// The inner products: MXFP4 exact against the plain loop and an independent sum; float tiles
// against double, and independent of how rows and tokens are tiled.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "quern/kernels/cpu/dot_tile.h"
#include "quern/kernels/cpu/mxfp4_dot.h"
#include "quern/kernels/cpu/swiglu.h"
#include "quern/kernels/host_memory.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

constexpr unsigned kSeed = 20261124;

// Random MXFP4 rows and quantized activation rows of n values.
struct Mxfp4Case {
  Mxfp4Case(std::int64_t rows, std::int64_t tokens, std::int64_t n, int low_scale, int high_scale,
            float magnitude)
      : rows(rows), tokens(tokens), n(n) {
    std::mt19937 random(kSeed + static_cast<unsigned>(n));
    std::uniform_int_distribution<int> byte(0, 255);
    std::uniform_int_distribution<int> scale(low_scale, high_scale);
    std::normal_distribution<float> normal(0.0F, magnitude);
    for (std::int64_t i = 0; i < rows * n / 2; ++i)
      packed.push_back(static_cast<std::uint8_t>(byte(random)));
    for (std::int64_t i = 0; i < rows * n / 32; ++i)
      scales.push_back(static_cast<std::uint8_t>(scale(random)));
    const std::int64_t blocks = mx_groups(n) * kMxGroup;
    codes.resize(static_cast<std::size_t>(tokens * blocks * 32));
    x_scales.resize(static_cast<std::size_t>(tokens * blocks));
    corrections.resize(static_cast<std::size_t>(tokens * blocks));
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<float> row(static_cast<std::size_t>(n));
      for (float& value : row) value = round_to_bf16(normal(random));
      quantized.push_back(
          quantize_row(row, {codes.data() + t * blocks * 32, x_scales.data() + t * blocks,
                             corrections.data() + t * blocks}));
      std::vector<float> decoded(row.size());
      mxfp4_reference::qdq(row, decoded);
      x.push_back(decoded);
    }
    for (const QuantizedRow& row : quantized) pointers.push_back(&row);
  }

  void run(const Mxfp4Kernel& kernel, std::vector<float>& out) const {
    HostArray<std::byte> panel(mxfp4_panel_bytes(n));
    kernel.dot({packed.data(), scales.data(), rows, n, pointers.data(), tokens, out.data(), rows},
               panel.data());
  }

  std::int64_t rows, tokens, n;
  std::vector<std::uint8_t> packed, scales;
  std::vector<std::int8_t> codes;
  std::vector<float> x_scales;
  std::vector<std::int32_t> corrections;
  std::vector<QuantizedRow> quantized;
  std::vector<const QuantizedRow*> pointers;
  std::vector<std::vector<float>> x;
};

TEST(Mxfp4Dot, EachKernelEqualsGenericBitForBitAndBothTheExactSum) {
  struct Row {
    std::int64_t rows, tokens, n;
    int low_scale, high_scale;
    float magnitude;
    const char* reason;
  };
  const Row table[] = {
      {5, 1, 32, 110, 130, 1, "one block"},
      {3, 7, 192, 110, 130, 1, "m3-tiny's hidden: a partial group"},
      {9, 4, 256, 110, 130, 1, "one full group"},
      {17, 9, 3072, 100, 140, 3, "M3's expert intermediate"},
      {4, 5, 6144, 100, 140, 0.02F, "M3's hidden"},
      {4, 1, 6144, 100, 140, 0.02F, "M3's hidden, one token"},
      {67, 13, 544, 110, 130, 1, "17 blocks: a step of 16 and a rest; partial panels"},
      {40, 2, 800, 110, 130, 1, "two tokens, 25 blocks"},
      {33, 6, 96, 110, 130, 1, "three blocks in panels"},
      {2, 3, 320, 0, 3, 1e-3F, "subnormal weight scales in panels"},
      {4, 5, 320, 0, 3, 1e-3F, "subnormal weight scales"},
      {4, 3, 320, 1, 60, 1e33F, "huge activations, tiny weights"},
  };
  for (const Row& r : table) {
    const Mxfp4Case c(r.rows, r.tokens, r.n, r.low_scale, r.high_scale, r.magnitude);
    std::vector<float> generic(static_cast<std::size_t>(r.rows * r.tokens));
    c.run(mxfp4_kernel(InstructionSet::kGeneric), generic);
    std::vector<float> weights(static_cast<std::size_t>(r.rows * r.n));
    mxfp4_reference::decode_row(c.packed, c.scales, weights);
    for (std::int64_t t = 0; t < r.tokens; ++t) {
      for (std::int64_t row = 0; row < r.rows; ++row) {
        const auto at = static_cast<std::size_t>(t * r.rows + row);
        double exact = 0, magnitude = 0;
        for (std::int64_t i = 0; i < r.n; ++i) {
          const double product =
              static_cast<double>(weights[static_cast<std::size_t>(row * r.n + i)]) *
              static_cast<double>(c.x[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)]);
          exact += product;
          magnitude += std::abs(product);
        }
        // Blocks are exact; n/256 + 3 float additions follow, each within 2^-24 of the sum of
        // magnitudes, and one subnormal unit when the sum is that small.
        const double bound = (static_cast<double>(r.n) / 256 + 4) * 0x1p-24 * magnitude + 0x1p-149;
        EXPECT_NEAR(generic[at], exact, bound) << r.reason;
      }
    }
    for (const Mxfp4Kernel& kernel : mxfp4_kernels()) {
      std::vector<float> fast(generic.size());
      c.run(kernel, fast);
      for (std::size_t i = 0; i < fast.size(); ++i) {
        EXPECT_EQ(std::bit_cast<std::uint32_t>(fast[i]), std::bit_cast<std::uint32_t>(generic[i]))
            << kernel.name << ": " << r.reason;
      }
    }
  }
}

TEST(Mxfp4Dot, NonFiniteActivationsAndScalesGiveNaN) {
  for (const Mxfp4Kernel& kernel : mxfp4_kernels()) {
    for (const std::int64_t tokens : {1, 3}) {  // a row as it lies, a panel
      std::vector<std::uint8_t> packed(16, 0x22), scales(1, 127);
      std::vector<std::int8_t> codes(256);
      std::vector<float> x_scales(8);
      std::vector<std::int32_t> corrections(8);
      std::vector<float> row(32, 1.0F);
      QuantizedRow quantized;
      const std::vector<const QuantizedRow*> x(static_cast<std::size_t>(tokens), &quantized);
      HostArray<std::byte> panel(mxfp4_panel_bytes(32));
      const auto result = [&] {
        quantized = quantize_row(row, {codes.data(), x_scales.data(), corrections.data()});
        std::vector<float> out(x.size());
        kernel.dot({packed.data(), scales.data(), 1, 32, x.data(), tokens, out.data(), 1},
                   panel.data());
        return out.back();
      };
      row[7] = std::numeric_limits<float>::infinity();
      EXPECT_TRUE(std::isnan(result())) << kernel.name;
      row[7] = 1.0F;
      EXPECT_EQ(result(), 32.0F) << kernel.name;
      scales[0] = 255;
      EXPECT_TRUE(std::isnan(result())) << kernel.name;
    }
  }
}

template <typename Element>
void check_float_tiles(std::int64_t n) {
  std::mt19937 random(kSeed);
  std::normal_distribution<float> normal;
  constexpr std::int64_t kRows = 13, kTokens = 8;
  std::vector<Element> weight(static_cast<std::size_t>(kRows * n));
  for (Element& w : weight) {
    if constexpr (std::is_same_v<Element, BF16>) {
      w = float_to_bf16(normal(random));
    } else {
      w = normal(random);
    }
  }
  std::vector<std::vector<float>> x(kTokens, std::vector<float>(static_cast<std::size_t>(n)));
  std::vector<const float*> pointers;
  for (auto& row : x) {
    for (float& value : row) value = normal(random);
    pointers.push_back(row.data());
  }
  std::vector<float> all(kRows * kTokens);
  dot_tile(weight.data(), n, kRows, pointers.data(), kTokens, n, all.data(), kRows);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t r = 0; r < kRows; ++r) {
      float alone = 0;
      dot_tile(weight.data() + r * n, n, 1, &pointers[static_cast<std::size_t>(t)], 1, n, &alone,
               1);
      double exact = 0, magnitude = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        double w;
        if constexpr (std::is_same_v<Element, BF16>) {
          w = bf16_to_float(weight[static_cast<std::size_t>(r * n + i)]);
        } else {
          w = weight[static_cast<std::size_t>(r * n + i)];
        }
        const double product = w * x[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)];
        exact += product;
        magnitude += std::abs(product);
      }
      const float value = all[static_cast<std::size_t>(t * kRows + r)];
      EXPECT_EQ(value, alone) << "n " << n << " row " << r << " token "
                              << t;  // the order never depends on the tile
      // At worst n roundings in a row, each within 2^-24 of the sum of magnitudes.
      EXPECT_NEAR(value, exact, static_cast<double>(n + 4) * 0x1p-24 * magnitude) << "n " << n;
    }
  }
}

TEST(DotTile, Bf16AnyLength) {
  for (const std::int64_t n : {1, 7, 8, 16, 31, 32, 64, 192, 1000}) check_float_tiles<BF16>(n);
}
TEST(DotTile, F32AnyLength) {
  for (const std::int64_t n : {1, 7, 8, 16, 31, 32, 64, 192, 1000}) check_float_tiles<float>(n);
}

// A score is dim products in four sums: at worst dim roundings of 2^-24 of the magnitudes.
TEST(IndexBlock, LargestScoreOfEachHeadForAnyShape) {
  struct Row {
    std::int64_t heads, dim, keys;
  };
  const Row table[] = {{4, 128, 128}, {4, 128, 1}, {1, 32, 9}, {3, 8, 7}, {5, 20, 128}, {8, 3, 17}};
  for (const Row& r : table) {
    std::mt19937 random(kSeed);
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<std::size_t>(r.heads * r.dim));
    for (float& value : q) value = normal(random);
    std::vector<BF16> keys(static_cast<std::size_t>(r.keys * r.dim));
    for (BF16& value : keys) value = float_to_bf16(normal(random));
    std::vector<float> queries(static_cast<std::size_t>(index_queries(r.heads, r.dim)));
    for (std::int64_t h = 0; h < r.heads; ++h) {
      for (std::int64_t i = 0; i < r.dim; ++i) {
        queries[static_cast<std::size_t>(index_query_place(r.heads, h, i))] =
            q[static_cast<std::size_t>(h * r.dim + i)];
      }
    }
    std::vector<float> scratch(static_cast<std::size_t>(index_scratch(r.heads, r.dim)));
    std::vector<float> best(static_cast<std::size_t>(2 * r.heads), -7.0F);
    score_index_block(
        {queries.data(), r.heads, r.dim, keys.data(), r.keys, best.data(), 2, scratch.data()});
    for (std::int64_t h = 0; h < r.heads; ++h) {
      double exact = -1e300, magnitude = 0;
      for (std::int64_t k = 0; k < r.keys; ++k) {
        double score = 0, size = 0;
        for (std::int64_t i = 0; i < r.dim; ++i) {
          const double product =
              static_cast<double>(q[static_cast<std::size_t>(h * r.dim + i)]) *
              static_cast<double>(bf16_to_float(keys[static_cast<std::size_t>(k * r.dim + i)]));
          score += product;
          size += std::abs(product);
        }
        exact = std::max(exact, score);
        magnitude = std::max(magnitude, size);
      }
      const double bound = static_cast<double>(r.dim) * 0x1p-24 * magnitude;
      EXPECT_NEAR(best[static_cast<std::size_t>(2 * h)], exact, bound)
          << r.heads << " heads, " << r.dim << " elements, " << r.keys << " keys, head " << h;
      EXPECT_EQ(best[static_cast<std::size_t>(2 * h + 1)], -7.0F);  // the stride is kept
    }
  }
}

// The exponential, a division and three products: less than 2^-20 together, then BF16 (2^-8, half
// of a unit in the last place). Where the exponential exceeds the largest float the result is 0,
// which is at most |g (u + 1)| / 2^128 wrong.
TEST(Swiglu, EqualsDoubleAtAnyPlaceOfARow) {
  const SwigluSpec spec{1.702F, 1.0F, 7.0F};
  std::vector<float> gate, up;
  for (float g = -100.0F; g < 20.0F; g += 0.37F) {
    gate.push_back(g);
    up.push_back(std::sin(g) * 9.0F);
  }
  std::vector<float> out(gate.size());
  swiglu_row(gate.data(), up.data(), static_cast<std::int64_t>(gate.size()), spec, out.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double g = std::min(static_cast<double>(round_to_bf16(gate[i])), 7.0);
    const double u = std::clamp(static_cast<double>(round_to_bf16(up[i])), -7.0, 7.0);
    const double exact = g / (1 + std::exp(-static_cast<double>(spec.alpha) * g)) * (u + 1);
    const double bound = std::abs(exact) * (0x1p-8 + 0x1p-20) + std::abs(g * (u + 1)) * 0x1p-128;
    EXPECT_NEAR(out[i], exact, bound) << gate[i];
    float alone = 0;
    swiglu_row(&gate[i], &up[i], 1, spec, &alone);
    EXPECT_EQ(alone, out[i]) << gate[i];
  }
}

TEST(Swiglu, NaNStaysNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [gate, up] : {std::pair{nan, 1.0F}, {1.0F, nan}}) {
    float out = 0;
    swiglu_row(&gate, &up, 1, {1.702F, 1.0F, 7.0F}, &out);
    EXPECT_TRUE(std::isnan(out)) << gate << " " << up;
  }
}

// One query head of the block against double. Scores are sums of `dim` products (dim + 1 roundings
// of 2^-24 of the magnitudes), their error enters the exponent; probabilities are rounded to BF16
// (2^-8 of each at most); the rest is float.
TEST(AttendBlock, EqualsSoftmaxInDoubleOverTwoBlocks) {
  for (const std::int64_t dim : {8, 16, 24, 128}) {
    for (const std::int64_t keys : {1, 7, 8, 100, 128}) {
      std::mt19937 random(kSeed);
      std::normal_distribution<float> normal;
      constexpr std::int64_t kHeads = 16, kUsed = 5;
      std::vector<float> queries(static_cast<std::size_t>(dim * kHeads));
      for (std::int64_t i = 0; i < dim; ++i) {
        for (std::int64_t h = 0; h < kUsed; ++h)
          queries[static_cast<std::size_t>(i * kHeads + h)] = normal(random);
      }
      std::vector<BF16> k(static_cast<std::size_t>(2 * keys * dim)), v(k.size());
      for (BF16& value : k) value = float_to_bf16(normal(random));
      for (BF16& value : v) value = float_to_bf16(normal(random));
      std::vector<float> highest(kHeads, -std::numeric_limits<float>::infinity()), sum(kHeads);
      std::vector<float> acc(static_cast<std::size_t>(kHeads * dim));
      std::vector<float> scratch(static_cast<std::size_t>(attention_scratch(kHeads, dim)));
      const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
      for (const std::int64_t block : {0, 1}) {
        attend_block({queries.data(), kHeads, kUsed, dim, scale, k.data() + block * keys * dim,
                      v.data() + block * keys * dim, keys, highest.data(), sum.data(), acc.data(),
                      scratch.data()});
      }
      for (std::int64_t h = 0; h < kUsed; ++h) {
        std::vector<double> score(static_cast<std::size_t>(2 * keys));
        double peak = -1e300, total = 0;
        for (std::int64_t j = 0; j < 2 * keys; ++j) {
          double& s = score[static_cast<std::size_t>(j)];
          for (std::int64_t i = 0; i < dim; ++i) {
            s += static_cast<double>(queries[static_cast<std::size_t>(i * kHeads + h)]) *
                 static_cast<double>(bf16_to_float(k[static_cast<std::size_t>(j * dim + i)]));
          }
          s *= static_cast<double>(scale);
          peak = std::max(peak, s);
        }
        for (double& s : score) total += s = std::exp(s - peak);
        for (std::int64_t i = 0; i < dim; ++i) {
          double exact = 0, magnitude = 0;
          for (std::int64_t j = 0; j < 2 * keys; ++j) {
            const double product =
                score[static_cast<std::size_t>(j)] / total *
                static_cast<double>(bf16_to_float(v[static_cast<std::size_t>(j * dim + i)]));
            exact += product;
            magnitude += std::abs(product);
          }
          const auto head = static_cast<std::size_t>(h);
          EXPECT_NEAR(acc[static_cast<std::size_t>(h * dim + i)] / sum[head], exact,
                      magnitude * (0x1p-8 + 0x1p-12))
              << "dim " << dim << " keys " << keys << " head " << h;
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern::kernels
