// MXFP4 blocks: 32 E2M1 codes and one E8M0 scale; encode, decode, quantize activations.
// Must never differ from AMD Quark's bytes ("even" scale rule, round to nearest even, saturation).
// Proved by tests/numerics/mxfp4_test.cc (SIMD against reference, exhaustive over BF16).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"

namespace quern {

inline constexpr std::size_t kMxBlock = 32;

// The scale exponent of a block from the binary32 bits of its largest magnitude (finite),
// -127..127: the exponent after rounding the magnitude to one mantissa bit (a tie at 1.75 goes up),
// minus 2, the exponent of E2M1's largest value. Quark: quantization/utils.py even_round.
int mxfp4_scale_exponent(std::uint32_t amax_bits);

// Weights. `in`: [n], n a multiple of 32, the contraction axis; packed: [n/2], element 2j in the
// low nibble of byte j; scales: [n/32]. Zero results are +0. Scale bytes are at least 1, as Quark
// stores them. Returns false when an element is Inf or NaN; the block's bytes then mean nothing.
[[nodiscard]] bool mxfp4_encode_row(std::span<const BF16> in, std::span<std::uint8_t> packed,
                                    std::span<std::uint8_t> scales);
[[nodiscard]] bool mxfp4_encode_row(std::span<const FP16> in, std::span<std::uint8_t> packed,
                                    std::span<std::uint8_t> scales);
[[nodiscard]] bool mxfp4_encode_row(std::span<const float> in, std::span<std::uint8_t> packed,
                                    std::span<std::uint8_t> scales);

// [n/2], [n/32] -> [n]. Scale byte 255 makes a block NaN. BF16 is exact but below its subnormal
// limit.
void mxfp4_decode_row(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                      std::span<float> out);
void mxfp4_decode_row(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                      std::span<BF16> out);

// Activations (Quark's qdq_mxfp4, mode "even"; `in` holds BF16 values): doubled_codes[i] is twice
// the E2M1 value (0, ±1, ±2, ±3, ±4, ±6, ±8, ±12); the element is doubled_codes[i] * 2^(scale - 127
// - 1). Scale bytes span 0..254. A block with Inf or NaN gets byte 255 (NaN) so that it cannot pass
// unseen. Sizes: in [n], doubled_codes [n], scales [n/32].
void mxfp4_quantize_activations(std::span<const float> in, std::span<std::int8_t> doubled_codes,
                                std::span<std::uint8_t> scales);

// Quantize and dequantize, as vLLM's emulation feeds its matrix products. The sign of zero is kept.
// `in` and `out` may be the same.
void mxfp4_qdq(std::span<const float> in, std::span<float> out);

// The plain versions, written from the definition: the oracle of the SIMD path above.
namespace mxfp4_reference {

[[nodiscard]] bool encode_row(std::span<const BF16> in, std::span<std::uint8_t> packed,
                              std::span<std::uint8_t> scales);
[[nodiscard]] bool encode_row(std::span<const FP16> in, std::span<std::uint8_t> packed,
                              std::span<std::uint8_t> scales);
[[nodiscard]] bool encode_row(std::span<const float> in, std::span<std::uint8_t> packed,
                              std::span<std::uint8_t> scales);
void decode_row(std::span<const std::uint8_t> packed, std::span<const std::uint8_t> scales,
                std::span<float> out);
void quantize_activations(std::span<const float> in, std::span<std::int8_t> doubled_codes,
                          std::span<std::uint8_t> scales);
void qdq(std::span<const float> in, std::span<float> out);

}  // namespace mxfp4_reference
}  // namespace quern
