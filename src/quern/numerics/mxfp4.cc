// MXFP4 with Google Highway: one source for SSE4, AVX2, AVX-512 and NEON, chosen at run time.
// Must never differ from mxfp4_reference.cc by a bit.
// Proved by tests/numerics/mxfp4_test.cc.
//
// Bound: encoding reads 2 bytes and writes 17/32 byte a BF16 weight; the arithmetic is seven
// integer comparisons a lane. Magnitudes of floats order as their bits do, so q = |v| / X is never
// computed: |v| is compared with X times the borders of E2M1, all of which are BF16 values.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/numerics/mxfp4.cc"
#include "quern/numerics/mxfp4.h"

#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/numerics/e8m0.h"

#ifndef QUERN_NUMERICS_MXFP4_BORDERS
#define QUERN_NUMERICS_MXFP4_BORDERS
namespace quern {

// Border k of E2M1 in quarters: |q| > 0.25, >= 0.75, > 1.25, >= 1.75, > 2.5, >= 3.5, > 5.
inline constexpr std::array<int, 7> kBorderQuarters = {1, 3, 5, 7, 10, 14, 20};

// BF16 bits of quarters * 2^(exponent - 2), infinity when too large. Exact: the smallest, 2^-129,
// is a multiple of BF16's smallest subnormal 2^-133.
constexpr std::int16_t border_bits(int quarters, int exponent) {
  int power = exponent - 2;  // value = quarters * 2^power; normalize to quarters in [128, 256)
  while (quarters < 128) {
    quarters *= 2;
    --power;
  }
  const int biased = power + 7 + 127;
  if (biased >= 255) return 0x7F80;
  if (biased <= 0) return static_cast<std::int16_t>(quarters >> (1 - biased));
  return static_cast<std::int16_t>(biased << 7 | (quarters & 0x7F));
}

// [exponent + 127][border], row padded to 16 bytes.
inline constexpr auto kBorders = [] {
  std::array<std::array<std::int16_t, 8>, 255> table{};
  for (int exponent = -127; exponent <= 127; ++exponent) {
    for (std::size_t k = 0; k < kBorderQuarters.size(); ++k) {
      table[static_cast<std::size_t>(exponent + 127)][k] =
          border_bits(kBorderQuarters[k], exponent);
    }
  }
  return table;
}();

}  // namespace quern
#endif  // QUERN_NUMERICS_MXFP4_BORDERS

HWY_BEFORE_NAMESPACE();
namespace quern {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR  // no vectors wider than one lane: the plain version

bool encode_row_bf16(std::span<const BF16> in, std::span<std::uint8_t> packed,
                     std::span<std::uint8_t> scales) {
  return mxfp4_reference::encode_row(in, packed, scales);
}
bool encode_row_f32(std::span<const float> in, std::span<std::uint8_t> packed,
                    std::span<std::uint8_t> scales) {
  return mxfp4_reference::encode_row(in, packed, scales);
}
void decode_row_f32(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                    std::span<float> out) {
  mxfp4_reference::decode_row(packed, scales, out);
}
void quantize_activations(std::span<const float> in, std::span<std::int8_t> doubled_codes,
                          std::span<std::uint8_t> scales) {
  mxfp4_reference::quantize_activations(in, doubled_codes, scales);
}
void qdq(std::span<const float> in, std::span<float> out) { mxfp4_reference::qdq(in, out); }

#else

// Lane is int16_t for BF16 bits, int32_t for binary32 bits; at most one block per vector.
template <typename Lane>
using BlockTag = hn::CappedTag<Lane, kMxBlock>;

template <typename Lane>
constexpr int kWidenBf16 = sizeof(Lane) == 4 ? 16 : 0;

// The largest magnitude of a block as binary32 bits.
template <typename Lane>
HWY_INLINE std::uint32_t amax_bits(const Lane* HWY_RESTRICT block) {
  const BlockTag<Lane> d;
  const auto magnitude_mask = hn::Set(d, hwy::LimitsMax<Lane>());
  auto amax = hn::Zero(d);
  for (std::size_t i = 0; i < kMxBlock; i += hn::Lanes(d)) {
    amax = hn::Max(amax, hn::And(hn::LoadU(d, block + i), magnitude_mask));
  }
  const auto bits = static_cast<std::uint32_t>(hn::GetLane(hn::MaxOfLanes(d, amax)));
  return sizeof(Lane) == 4 ? bits : bits << 16;
}

// The seven borders of a block's scale, compared with magnitudes.
template <typename Lane>
class Borders {
 public:
  using D = BlockTag<Lane>;
  using V = hn::Vec<D>;

  HWY_INLINE explicit Borders(int exponent)
      : row_(kBorders[static_cast<std::size_t>(exponent + 127)]) {}

  // 0..7 in each lane. Masks are -1: borders passed (strict ones) are subtracted, borders not yet
  // reached (inclusive ones, tested as border > magnitude) are added to the count of those.
  HWY_INLINE V codes(V magnitude) const {
    const auto not_reached =
        hn::Add(hn::Add(below(1, magnitude), below(3, magnitude)), below(5, magnitude));
    const auto passed = hn::Add(hn::Add(above(0, magnitude), above(2, magnitude)),
                                hn::Add(above(4, magnitude), above(6, magnitude)));
    return hn::Add(hn::Set(D(), Lane{3}), hn::Sub(not_reached, passed));
  }

  // Twice the E2M1 value: the steps between codes 4, 5, 6, 7 are 2, 2 and 4.
  HWY_INLINE V doubled(V magnitude) const {
    const auto above4 = above(4, magnitude);
    const auto below5 = below(5, magnitude);
    const auto above6 = above(6, magnitude);
    const auto not_reached =
        hn::Add(hn::Add(below(1, magnitude), below(3, magnitude)), hn::Add(below5, below5));
    const auto passed = hn::Add(hn::Add(above(0, magnitude), above(2, magnitude)),
                                hn::Add(hn::Add(above4, above4), hn::ShiftLeft<2>(above6)));
    return hn::Add(hn::Set(D(), Lane{4}), hn::Sub(not_reached, passed));
  }

 private:
  HWY_INLINE V border(std::size_t k) const {
    return hn::Set(D(), static_cast<Lane>(Lane{row_[k]} << kWidenBf16<Lane>));
  }
  HWY_INLINE V above(std::size_t k, V magnitude) const {
    return hn::VecFromMask(D(), hn::Gt(magnitude, border(k)));
  }
  HWY_INLINE V below(std::size_t k, V magnitude) const {
    return hn::VecFromMask(D(), hn::Gt(border(k), magnitude));
  }

  const std::array<std::int16_t, 8>& row_;
};

// One block of 32 to 16 bytes.
template <typename Lane>
HWY_INLINE void encode_block(const Lane* HWY_RESTRICT block, int exponent,
                             std::uint8_t* HWY_RESTRICT packed) {
  using Wide = hwy::MakeUnsigned<hwy::MakeWide<Lane> >;
  const BlockTag<Lane> d;
  const hn::Repartition<Wide, decltype(d)> wide;
  const hn::Rebind<std::uint8_t, decltype(wide)> bytes;
  const auto magnitude_mask = hn::Set(d, hwy::LimitsMax<Lane>());
  const auto sign_bit = hn::Set(d, Lane{8});
  const Borders<Lane> borders(exponent);
  for (std::size_t i = 0; i < kMxBlock; i += hn::Lanes(d)) {
    const auto value = hn::LoadU(d, block + i);
    const auto codes = borders.codes(hn::And(value, magnitude_mask));
    // A result of zero drops its sign.
    const auto negative = hn::And(hn::Lt(value, hn::Zero(d)), hn::Gt(codes, hn::Zero(d)));
    const auto nibbles = hn::Or(codes, hn::IfThenElseZero(negative, sign_bit));
    // Little endian: the even element is the low half of a wide lane.
    const auto pairs = hn::BitCast(wide, nibbles);
    const auto joined = hn::Or(pairs, hn::ShiftRight<8 * sizeof(Lane) - 4>(pairs));
    hn::StoreU(hn::TruncateTo(bytes, joined), bytes, packed + i / 2);
  }
}

// 2 KiB of BF16.
inline constexpr std::size_t kBlocksAhead = 32;

template <typename Lane>
HWY_INLINE bool encode_row_lanes(const Lane* HWY_RESTRICT in, std::size_t blocks,
                                 std::uint8_t* HWY_RESTRICT packed,
                                 std::uint8_t* HWY_RESTRICT scales) {
  std::uint32_t largest = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    // The processor's own prefetcher stops at the end of a page.
    const Lane* ahead = in + std::min(b + kBlocksAhead, blocks - 1) * kMxBlock;
    for (std::size_t i = 0; i < kMxBlock; i += 64 / sizeof(Lane)) hwy::Prefetch(ahead + i);
    const std::uint32_t amax = amax_bits(in + b * kMxBlock);
    largest = std::max(largest, amax);
    const int exponent = mxfp4_scale_exponent(amax);
    encode_block(in + b * kMxBlock, exponent, packed + b * kMxBlock / 2);
    scales[b] = static_cast<std::uint8_t>(std::max(exponent, -126) + kE8M0Bias);
  }
  return largest < 0x7F80'0000u;
}

bool encode_row_bf16(std::span<const BF16> in, std::span<std::uint8_t> packed,
                     std::span<std::uint8_t> scales) {
  return encode_row_lanes(reinterpret_cast<const std::int16_t*>(in.data()), scales.size(),
                          packed.data(), scales.data());
}

bool encode_row_f32(std::span<const float> in, std::span<std::uint8_t> packed,
                    std::span<std::uint8_t> scales) {
  return encode_row_lanes(reinterpret_cast<const std::int32_t*>(in.data()), scales.size(),
                          packed.data(), scales.data());
}

void quantize_activations(std::span<const float> in, std::span<std::int8_t> doubled_codes,
                          std::span<std::uint8_t> scales) {
  const BlockTag<std::int32_t> d;
  const hn::Rebind<std::int8_t, decltype(d)> d8;
  const auto magnitude_mask = hn::Set(d, hwy::LimitsMax<std::int32_t>());
  for (std::size_t b = 0; b < scales.size(); ++b) {
    const auto* block = reinterpret_cast<const std::int32_t*>(in.data()) + b * kMxBlock;
    std::int8_t* codes = doubled_codes.data() + b * kMxBlock;
    const std::uint32_t amax = amax_bits(block);
    if (amax >= 0x7F80'0000u) {
      std::fill_n(codes, kMxBlock, std::int8_t{0});
      scales[b] = kE8M0NaN;
      continue;
    }
    const int exponent = mxfp4_scale_exponent(amax);
    scales[b] = static_cast<std::uint8_t>(exponent + kE8M0Bias);
    const Borders<std::int32_t> borders(exponent);
    for (std::size_t i = 0; i < kMxBlock; i += hn::Lanes(d)) {
      const auto value = hn::LoadU(d, block + i);
      const auto doubled = borders.doubled(hn::And(value, magnitude_mask));
      const auto sign = hn::ShiftRight<31>(value);
      hn::StoreU(hn::DemoteTo(d8, hn::Sub(hn::Xor(doubled, sign), sign)), d8, codes + i);
    }
  }
}

void qdq(std::span<const float> in, std::span<float> out) {
  const BlockTag<std::int32_t> d;
  const hn::Rebind<float, decltype(d)> df;
  const auto magnitude_mask = hn::Set(d, hwy::LimitsMax<std::int32_t>());
  for (std::size_t begin = 0; begin < in.size(); begin += kMxBlock) {
    const float* block = in.data() + begin;
    const std::uint32_t amax = amax_bits(reinterpret_cast<const std::int32_t*>(block));
    const bool finite = amax < 0x7F80'0000u;
    const int exponent = mxfp4_scale_exponent(amax);
    const auto half_scale = hn::Set(
        df,
        0.5f * e8m0_to_float(finite ? static_cast<std::uint8_t>(exponent + kE8M0Bias) : kE8M0NaN));
    const Borders<std::int32_t> borders(exponent);
    for (std::size_t i = 0; i < kMxBlock; i += hn::Lanes(d)) {
      const auto value = hn::LoadU(df, block + i);
      const auto doubled = borders.doubled(hn::And(hn::BitCast(d, value), magnitude_mask));
      const auto magnitude = hn::Mul(hn::ConvertTo(df, doubled), half_scale);
      hn::StoreU(hn::CopySign(magnitude, value), df, out.data() + begin + i);
    }
  }
}

// The BF16 pattern of an E2M1 value ends in 6 zeros, so two byte tables give it whole.
void decode_row_f32(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                    std::span<float> out) {
  const hn::FixedTag<std::uint8_t, 16> d8;
  const hn::FixedTag<std::uint16_t, 8> d16;
  const hn::FixedTag<float, 4> df;
  HWY_ALIGN static constexpr std::uint8_t kHigh[16] = {0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40,
                                                       0x40, 0x40, 0x80, 0xBF, 0xBF, 0xBF,
                                                       0xC0, 0xC0, 0xC0, 0xC0};
  HWY_ALIGN static constexpr std::uint8_t kLow[16] = {0x00, 0x00, 0x80, 0xC0, 0x00, 0x40,
                                                      0x80, 0xC0, 0x00, 0x00, 0x80, 0xC0,
                                                      0x00, 0x40, 0x80, 0xC0};
  const auto high = hn::Load(d8, kHigh);
  const auto low = hn::Load(d8, kLow);
  const auto zero = hn::Zero(d16);
  for (std::size_t b = 0; b < scales.size(); ++b) {
    const auto bytes = hn::LoadU(d8, packed.data() + b * kMxBlock / 2);
    const auto nibble_mask = hn::Set(d16, std::uint16_t{0x0F0F});
    const auto words = hn::BitCast(d16, bytes);
    const auto even = hn::BitCast(d8, hn::And(words, nibble_mask));
    const auto odd = hn::BitCast(d8, hn::And(hn::ShiftRight<4>(words), nibble_mask));
    const auto factor = hn::Set(df, e8m0_to_float(scales[b]));
    float* to = out.data() + b * kMxBlock;
    const auto store_eight = [&](auto patterns, std::size_t i) {
      const auto v = hn::BitCast(d16, patterns);
      hn::StoreU(hn::Mul(hn::BitCast(df, hn::InterleaveLower(d16, zero, v)), factor), df, to + i);
      hn::StoreU(hn::Mul(hn::BitCast(df, hn::InterleaveUpper(d16, zero, v)), factor), df,
                 to + i + 4);
    };
    const auto store_sixteen = [&](auto codes, std::size_t i) {
      const auto lows = hn::TableLookupBytes(low, codes);
      const auto highs = hn::TableLookupBytes(high, codes);
      store_eight(hn::InterleaveLower(d8, lows, highs), i);
      store_eight(hn::InterleaveUpper(d8, lows, highs), i + 8);
    };
    store_sixteen(hn::InterleaveLower(d8, even, odd), 0);
    store_sixteen(hn::InterleaveUpper(d8, even, odd), 16);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace quern
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern {
namespace {

HWY_EXPORT(encode_row_bf16);
HWY_EXPORT(encode_row_f32);
HWY_EXPORT(quantize_activations);
HWY_EXPORT(qdq);
HWY_EXPORT(decode_row_f32);

void check_sizes(std::size_t elements, std::size_t packed, std::size_t scales) {
  QUERN_CHECK(elements % kMxBlock == 0 && packed == elements / 2 && scales == elements / kMxBlock,
              "{} elements, {} packed bytes, {} scales", elements, packed, scales);
}

}  // namespace

bool mxfp4_encode_row(std::span<const BF16> in, std::span<std::uint8_t> packed,
                      std::span<std::uint8_t> scales) {
  check_sizes(in.size(), packed.size(), scales.size());
  return HWY_DYNAMIC_DISPATCH(encode_row_bf16)(in, packed, scales);
}

bool mxfp4_encode_row(std::span<const float> in, std::span<std::uint8_t> packed,
                      std::span<std::uint8_t> scales) {
  check_sizes(in.size(), packed.size(), scales.size());
  return HWY_DYNAMIC_DISPATCH(encode_row_f32)(in, packed, scales);
}

// Borders are not FP16 values for small scales: through binary32, a piece at a time.
bool mxfp4_encode_row(std::span<const FP16> in, std::span<std::uint8_t> packed,
                      std::span<std::uint8_t> scales) {
  check_sizes(in.size(), packed.size(), scales.size());
  constexpr std::size_t kPiece = 32 * kMxBlock;
  float piece[kPiece];
  bool finite = true;
  for (std::size_t begin = 0; begin < in.size(); begin += kPiece) {
    const std::size_t count = std::min(kPiece, in.size() - begin);
    const std::span<float> values(piece, count);
    fp16_to_float(in.subspan(begin, count), values);
    finite &= mxfp4_encode_row(values, packed.subspan(begin / 2, count / 2),
                               scales.subspan(begin / kMxBlock, count / kMxBlock));
  }
  return finite;
}

void mxfp4_decode_row(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                      std::span<float> out) {
  check_sizes(out.size(), packed.size(), scales.size());
  HWY_DYNAMIC_DISPATCH(decode_row_f32)(packed, scales, out);
}

void mxfp4_decode_row(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                      std::span<BF16> out) {
  check_sizes(out.size(), packed.size(), scales.size());
  constexpr std::size_t kPiece = 32 * kMxBlock;
  float piece[kPiece];
  for (std::size_t begin = 0; begin < out.size(); begin += kPiece) {
    const std::size_t count = std::min(kPiece, out.size() - begin);
    const std::span<float> values(piece, count);
    mxfp4_decode_row(packed.subspan(begin / 2, count / 2),
                     scales.subspan(begin / kMxBlock, count / kMxBlock), values);
    float_to_bf16(values, out.subspan(begin, count));
  }
}

void mxfp4_quantize_activations(std::span<const float> in, std::span<std::int8_t> doubled_codes,
                                std::span<std::uint8_t> scales) {
  check_sizes(in.size(), doubled_codes.size() / 2, scales.size());
  HWY_DYNAMIC_DISPATCH(quantize_activations)(in, doubled_codes, scales);
}

void mxfp4_qdq(std::span<const float> in, std::span<float> out) {
  QUERN_CHECK(in.size() % kMxBlock == 0 && out.size() == in.size(), "{} in, {} out", in.size(),
              out.size());
  HWY_DYNAMIC_DISPATCH(qdq)(in, out);
}

}  // namespace quern
#endif  // HWY_ONCE
