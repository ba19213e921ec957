// Statistics of MXFP4 weights with Google Highway; see weight_statistics.h.
// Must never differ from measure_restored() in a count, nor in a sum by more than its rounding.
// Proved by tests/numerics/weight_statistics_test.cc.
//
// A block is measured in halves of its scale X: u = w / (X / 2) is exact, codes are small integers.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/numerics/mxfp4_measure.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"
#include "quern/numerics/weight_statistics.h"

HWY_BEFORE_NAMESPACE();
namespace quern {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR  // no vectors wider than one lane: the plain version

void measure_f32(const float* weights, const std::uint8_t* packed, const std::uint8_t* scales,
                 std::size_t blocks, WeightStatistics& statistics) {
  std::vector<float> restored(blocks * kMxBlock);
  std::vector<float> factors(blocks);
  mxfp4_decode_row({packed, restored.size() / 2}, {scales, blocks}, std::span<float>(restored));
  for (std::size_t b = 0; b < blocks; ++b) factors[b] = e8m0_to_float(scales[b]);
  measure_restored({weights, restored.size()}, restored, kMxBlock, factors, 6.0f, statistics);
}

void measure_bf16(const BF16* weights, const std::uint8_t* packed, const std::uint8_t* scales,
                  std::size_t blocks, WeightStatistics& statistics) {
  std::vector<float> values(blocks * kMxBlock);
  bf16_to_float({weights, values.size()}, values);
  measure_f32(values.data(), packed, scales, blocks, statistics);
}

#else

using DF = hn::CappedTag<float, kMxBlock>;
using DI = hn::Rebind<std::int32_t, DF>;
using VF = hn::Vec<DF>;

HWY_INLINE VF load(const float* from) { return hn::LoadU(DF(), from); }
HWY_INLINE VF load(const BF16* from) {
  const hn::Rebind<std::uint32_t, DF> d32;
  const hn::Rebind<std::uint16_t, DF> d16;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

// The limit of measure_restored() for 6 X.
inline constexpr float kLimit = 12.0f * (1 + 0x1p-20f);

// 16 bytes to the 32 doubled values -12..12.
HWY_INLINE void doubled_codes(const std::uint8_t* packed, std::int8_t* HWY_RESTRICT out) {
  const hn::FixedTag<std::uint8_t, 16> d8;
  const hn::FixedTag<std::uint16_t, 8> d16;
  HWY_ALIGN static constexpr std::uint8_t kTable[16] = {
      0, 1, 2, 3, 4, 6, 8, 12, 0, 0xFF, 0xFE, 0xFD, 0xFC, 0xFA, 0xF8, 0xF4};
  const auto table = hn::Load(d8, kTable);
  const auto words = hn::BitCast(d16, hn::LoadU(d8, packed));
  const auto mask = hn::Set(d16, std::uint16_t{0x0F0F});
  const auto even = hn::TableLookupBytes(table, hn::BitCast(d8, hn::And(words, mask)));
  const auto odd =
      hn::TableLookupBytes(table, hn::BitCast(d8, hn::And(hn::ShiftRight<4>(words), mask)));
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  hn::Store(hn::InterleaveLower(d8, even, odd), d8, bytes);
  hn::Store(hn::InterleaveUpper(d8, even, odd), d8, bytes + 16);
}

// The relative error of a block's largest magnitude, given in halves of the scale, as are `codes`.
HWY_INLINE float peak_error(float peak, bool smallest_scale, const std::int8_t* codes) {
  if (peak == 0) return 0;
  float stored = 2 * kE2M1Values[e2m1_encode_magnitude(0.5f * peak)];
  if (smallest_scale) {  // Quark's codes belong to half of it there: only they tell
    stored = 0;
    for (std::size_t i = 0; i < kMxBlock; ++i) {
      stored = std::max(stored, std::abs(static_cast<float>(codes[i])));
    }
  }
  return std::abs(peak - stored) / peak;
}

template <typename T>
HWY_INLINE void measure(const T* HWY_RESTRICT weights, const std::uint8_t* HWY_RESTRICT packed,
                        const std::uint8_t* HWY_RESTRICT scales, std::size_t blocks,
                        WeightStatistics& statistics) {
  const DF df;
  const DI di;
  const hn::Half<DF> dh;
  const hn::Rebind<double, decltype(dh)> dd;
  const hn::Rebind<std::int8_t, DF> d8;
  const auto one = hn::Set(di, 1);
  auto signal = hn::Zero(dd);
  auto noise = hn::Zero(dd);
  auto clipped = hn::Zero(di);
  auto flushed = hn::Zero(di);
  float worst = 0;
  HWY_ALIGN std::int8_t codes[kMxBlock];
  for (std::size_t b = 0; b < blocks; ++b) {
    doubled_codes(packed + b * kMxBlock / 2, codes);
    const int exponent = scales[b] - kE8M0Bias;  // -126..127, see mxfp4_encode_row
    const auto factor =
        hn::Set(df, std::bit_cast<float>(static_cast<std::uint32_t>(1 - exponent + 127) << 23));
    auto block_signal = hn::Zero(df);
    auto block_noise = hn::Zero(df);
    auto peak = hn::Zero(df);
    for (std::size_t i = 0; i < kMxBlock; i += hn::Lanes(df)) {
      const auto u = hn::Mul(load(weights + b * kMxBlock + i), factor);
      const auto code = hn::ConvertTo(df, hn::PromoteTo(di, hn::LoadU(d8, codes + i)));
      const auto error = hn::Sub(u, code);
      const auto magnitude = hn::Abs(u);
      block_signal = hn::MulAdd(u, u, block_signal);
      block_noise = hn::MulAdd(error, error, block_noise);
      peak = hn::Max(peak, magnitude);
      const auto over = hn::RebindMask(di, hn::Gt(magnitude, hn::Set(df, kLimit)));
      // A stored zero leaves u as the error.
      const auto lost =
          hn::RebindMask(di, hn::And(hn::Eq(code, hn::Zero(df)), hn::Gt(magnitude, hn::Zero(df))));
      clipped = hn::Add(clipped, hn::IfThenElseZero(over, one));
      flushed = hn::Add(flushed, hn::IfThenElseZero(lost, one));
    }
    // (X / 2)^2 = 2^(2 exponent - 2), a normal binary64.
    const auto power = hn::Set(
        dd, std::bit_cast<double>(static_cast<std::uint64_t>(2 * exponent - 2 + 1023) << 52));
    const auto widen = [&](VF v) HWY_ATTR {
      return hn::PromoteTo(dd, hn::Add(hn::LowerHalf(dh, v), hn::UpperHalf(dh, v)));
    };
    signal = hn::MulAdd(widen(block_signal), power, signal);
    noise = hn::MulAdd(widen(block_noise), power, noise);
    worst =
        std::max(worst, peak_error(hn::GetLane(hn::MaxOfLanes(df, peak)), scales[b] == 1, codes));
    ++statistics.scales[scales[b]];
  }
  statistics.elements += blocks * kMxBlock;
  statistics.clipped += static_cast<std::uint64_t>(hn::GetLane(hn::SumOfLanes(di, clipped)));
  statistics.flushed += static_cast<std::uint64_t>(hn::GetLane(hn::SumOfLanes(di, flushed)));
  statistics.signal += hn::GetLane(hn::SumOfLanes(dd, signal));
  statistics.noise += hn::GetLane(hn::SumOfLanes(dd, noise));
  statistics.max_peak_error = std::max(statistics.max_peak_error, double{worst});
}

void measure_f32(const float* weights, const std::uint8_t* packed, const std::uint8_t* scales,
                 std::size_t blocks, WeightStatistics& statistics) {
  measure(weights, packed, scales, blocks, statistics);
}

void measure_bf16(const BF16* weights, const std::uint8_t* packed, const std::uint8_t* scales,
                  std::size_t blocks, WeightStatistics& statistics) {
  measure(weights, packed, scales, blocks, statistics);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace quern
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern {
namespace {

HWY_EXPORT(measure_f32);
HWY_EXPORT(measure_bf16);

// Lane counters are 32 bits wide: no call may count more than this many blocks.
constexpr std::size_t kPieceBlocks = 1u << 20;

template <typename T, typename Fn>
void in_pieces(std::span<const T> weights, std::span<const std::uint8_t> packed,
               std::span<const std::uint8_t> scales, const Fn& fn) {
  QUERN_CHECK(weights.size() == scales.size() * kMxBlock && packed.size() * 2 == weights.size());
  for (std::size_t b = 0; b < scales.size(); b += kPieceBlocks) {
    fn(weights.data() + b * kMxBlock, packed.data() + b * kMxBlock / 2, scales.data() + b,
       std::min(kPieceBlocks, scales.size() - b));
  }
}

}  // namespace

void mxfp4_measure(std::span<const BF16> weights, std::span<const std::uint8_t> packed,
                   std::span<const std::uint8_t> scales, WeightStatistics& statistics) {
  in_pieces(weights, packed, scales, [&](const BF16* w, const auto* p, const auto* s, auto n) {
    HWY_DYNAMIC_DISPATCH(measure_bf16)(w, p, s, n, statistics);
  });
}

void mxfp4_measure(std::span<const float> weights, std::span<const std::uint8_t> packed,
                   std::span<const std::uint8_t> scales, WeightStatistics& statistics) {
  in_pieces(weights, packed, scales, [&](const float* w, const auto* p, const auto* s, auto n) {
    HWY_DYNAMIC_DISPATCH(measure_f32)(w, p, s, n, statistics);
  });
}

void mxfp4_measure(std::span<const FP16> weights, std::span<const std::uint8_t> packed,
                   std::span<const std::uint8_t> scales, WeightStatistics& statistics) {
  constexpr std::size_t kBlocks = 32;
  float values[kBlocks * kMxBlock];
  for (std::size_t b = 0; b < scales.size(); b += kBlocks) {
    const std::size_t count = std::min(kBlocks, scales.size() - b);
    const std::span<float> piece(values, count * kMxBlock);
    fp16_to_float(weights.subspan(b * kMxBlock, piece.size()), piece);
    mxfp4_measure(std::span<const float>(piece), packed.subspan(b * kMxBlock / 2, piece.size() / 2),
                  scales.subspan(b, count), statistics);
  }
}

}  // namespace quern
#endif  // HWY_ONCE
