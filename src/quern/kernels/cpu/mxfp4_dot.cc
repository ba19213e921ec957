// See mxfp4_dot.h.
#include "quern/kernels/cpu/mxfp4_dot.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

constexpr int kBlock = static_cast<int>(kMxBlock);
constexpr int kHalf = kBlock / 2;
constexpr std::int64_t kGroupCodes = kMxGroup * kBlock;
// Above this scale exponent a block sum times its scale could overflow before the weight's scale
// brings it down.
constexpr int kHugeScale = 200;
constexpr int kHugeShift = 64;

#if defined(__x86_64__)
// GCC 12's __builtin_cpu_supports does not know AVX-VNNI: CPUID leaf 7, subleaf 1, EAX bit 4.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1U << 4) != 0;
}
#endif

// One block of a QuantizedRow.
void place_block(const QuantizedRowStorage& storage, std::int64_t b,
                 const std::array<std::int8_t, kMxBlock>& codes, std::uint8_t exponent) {
  std::int8_t* even = storage.codes + b / kMxGroup * kGroupCodes + b % kMxGroup * kHalf;
  std::int8_t* odd = even + kGroupCodes / 2;
  int sum = 0;
  for (int i = 0; i < kHalf; ++i) {
    even[i] = codes[static_cast<std::size_t>(2 * i)];
    odd[i] = codes[static_cast<std::size_t>(2 * i + 1)];
    sum += even[i] + odd[i];
  }
  storage.corrections[b] = -12 * sum;
  storage.scales[b] = e8m0_to_float(exponent) * 0.25F;
}

// The row of `blocks` placed blocks: pads the last group; `highest` is the largest exponent.
QuantizedRow finish_row(const QuantizedRowStorage& storage, std::int64_t blocks, int highest) {
  const std::int64_t padded = mx_groups(blocks * kBlock) * kMxGroup;
  for (std::int64_t b = blocks; b < padded; ++b) {
    std::int8_t* even = storage.codes + b / kMxGroup * kGroupCodes + b % kMxGroup * kHalf;
    std::fill_n(even, kHalf, std::int8_t{0});
    std::fill_n(even + kGroupCodes / 2, kHalf, std::int8_t{0});
    storage.corrections[b] = 0;
    storage.scales[b] = 0;
  }
  QuantizedRow row{storage.codes, storage.scales, storage.corrections, 1.0F};
  if (highest > kHugeScale) {
    for (std::int64_t b = 0; b < blocks; ++b)
      storage.scales[b] = std::ldexp(storage.scales[b], -kHugeShift);
    row.post_scale = std::ldexp(1.0F, kHugeShift);
  }
  return row;
}

// Twice an E2M1 value (index: plus 12) to its code; a zero is +0.
constexpr std::array<std::uint8_t, 25> kCodeOfDoubled = [] {
  std::array<std::uint8_t, 25> codes{};
  for (std::uint8_t code = 0; code < 16; ++code) {
    if (code == 8) continue;  // -0
    codes[static_cast<std::size_t>(kE2M1Doubled[code] + 12)] = code;
  }
  return codes;
}();

std::uint8_t code_of(std::int8_t doubled) {
  return kCodeOfDoubled[static_cast<std::size_t>(doubled + 12)];
}

}  // namespace

QuantizedRow quantize_row(std::span<const float> x, const QuantizedRowStorage& storage) {
  const auto blocks = static_cast<std::int64_t>(x.size()) / kBlock;
  std::array<std::int8_t, kMxBlock> codes{};
  std::uint8_t exponent = 0;
  int highest = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    mxfp4_quantize_activations(x.subspan(static_cast<std::size_t>(b * kBlock), kMxBlock), codes,
                               {&exponent, 1});
    place_block(storage, b, codes, exponent);
    if (exponent != kE8M0NaN) highest = std::max<int>(highest, exponent);
  }
  return finish_row(storage, blocks, highest);
}

void pack_row(std::span<const float> x, std::uint8_t* packed, std::uint8_t* scales) {
  std::array<std::int8_t, kMxBlock> codes{};
  for (std::size_t at = 0; at < x.size(); at += kMxBlock) {
    mxfp4_quantize_activations(x.subspan(at, kMxBlock), codes, {scales++, 1});
    for (std::size_t i = 0; i < kMxBlock; i += 2) {
      *packed++ = static_cast<std::uint8_t>(code_of(codes[i]) | code_of(codes[i + 1]) << 4);
    }
  }
}

QuantizedRow unpack_row(const std::uint8_t* packed, const std::uint8_t* scales, std::int64_t n,
                        const QuantizedRowStorage& storage) {
  const std::int64_t blocks = n / kBlock;
  std::array<std::int8_t, kMxBlock> codes{};
  int highest = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::size_t i = 0; i < kMxBlock; i += 2) {
      codes[i] = static_cast<std::int8_t>(kE2M1Doubled[*packed & 15]);
      codes[i + 1] = static_cast<std::int8_t>(kE2M1Doubled[*packed++ >> 4]);
    }
    place_block(storage, b, codes, scales[b]);
    if (scales[b] != kE8M0NaN) highest = std::max<int>(highest, scales[b]);
  }
  return finish_row(storage, blocks, highest);
}

void mxfp4_dot_generic(const Mxfp4Product& p, std::byte*) {
  const std::int64_t blocks = p.n / kBlock;
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    const QuantizedRow& x = *p.x[t];
    for (std::int64_t r = 0; r < p.rows; ++r) {
      std::array<float, kMxGroup> lanes{};
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::uint8_t* weights = p.packed + r * p.n / 2 + b * kHalf;
        const std::int8_t* even = x.codes + b / kMxGroup * kGroupCodes + b % kMxGroup * kHalf;
        const std::int8_t* odd = even + kGroupCodes / 2;
        int sum = 0;
        for (int i = 0; i < kHalf; ++i) {
          sum += kE2M1Doubled[weights[i] & 15] * even[i];
          sum += kE2M1Doubled[weights[i] >> 4] * odd[i];
        }
        float& lane = lanes[static_cast<std::size_t>(b % kMxGroup)];
        const float scaled = static_cast<float>(sum) * x.scales[b];
        lane = std::fma(scaled, e8m0_to_float(p.scales[r * blocks + b]), lane);
      }
      const float even = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6]);
      const float odd = (lanes[1] + lanes[5]) + (lanes[3] + lanes[7]);
      p.out[t * p.out_stride + r] = (even + odd) * x.post_scale;
    }
  }
}

namespace {

std::int64_t peak_generic(std::int64_t rounds) {
  volatile int operand = 3;
  int sum = 0;
  for (std::int64_t i = 0; i < rounds; ++i) sum += operand * operand;
  operand = sum;
  return rounds;
}

constexpr Mxfp4Kernel kGeneric{InstructionSet::kGeneric, "generic", mxfp4_dot_generic,
                               peak_generic};

std::vector<Mxfp4Kernel> find_kernels() {
  std::vector<Mxfp4Kernel> kernels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (avx2 && __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
      __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512vnni") != 0) {
    kernels.push_back({InstructionSet::kAvx512Vnni, "avx512-vnni", mxfp4_dot_avx512_vnni,
                       mxfp4_peak_avx512_vnni});
  }
  if (avx2 && has_avx_vnni()) {
    kernels.push_back(
        {InstructionSet::kAvxVnni, "avx-vnni", mxfp4_dot_avx_vnni, mxfp4_peak_avx_vnni});
  }
  if (avx2) kernels.push_back({InstructionSet::kAvx2, "avx2", mxfp4_dot_avx2, mxfp4_peak_avx2});
#endif
  kernels.push_back(kGeneric);
  return kernels;
}

}  // namespace

std::span<const Mxfp4Kernel> mxfp4_kernels() {
  static const std::vector<Mxfp4Kernel> kernels = find_kernels();
  return kernels;
}

const Mxfp4Kernel& mxfp4_kernel(InstructionSet instruction_set) {
  const auto kernels = mxfp4_kernels();
  if (instruction_set == InstructionSet::kAuto) return kernels.front();
  std::string names;
  for (const Mxfp4Kernel& kernel : kernels) {
    if (kernel.instruction_set == instruction_set) return kernel;
    names += names.empty() ? "" : ", ";
    names += kernel.name;
  }
  throw Error("this machine lacks the instructions that were asked for; it has: {}", names);
}

}  // namespace quern::kernels
