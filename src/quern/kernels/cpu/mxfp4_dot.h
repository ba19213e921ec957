// Dot products of MXFP4 weight rows with MXFP4 activations, exact inside a block of 32.
// Twice an E2M1 value is a small integer, so a block's sum is an exact integer (|sum| <= 32 * 12 *
// 12 = 4608); it enters a float sum scaled by two powers of two. One order for every instruction
// set: lane b mod 8 takes block b, blocks ascending, then ((l0+l4)+(l2+l6)) + ((l1+l5)+(l3+l7)); so
// all implementations, for one token or many, agree bit for bit. Must never add integer sums of
// different blocks: their scales differ. Proved by tests/kernels/dot_test.cc.
//
// Bound: at one token 17 bytes a block of 32 weights from memory; from some tokens on 8-bit
// multiply-adds. One or two tokens take the rows as they lie (horizontal sums); more take a panel
// of rows that is decoded once to int8 with the rows in the lanes of a vector, so that no sum
// crosses lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quern/kernels/factory.h"

namespace quern::kernels {

inline constexpr std::int64_t kMxGroup = 8;  // blocks whose sums share a vector

// Activations of one token, in groups of 8 blocks (zero-padded).
struct QuantizedRow {
  // [groups][2][8][16] doubled values: of a group first the even elements of its 8 blocks, then the
  // odd ones (a byte of weights holds an even element in its low nibble, an odd one in its high).
  const std::int8_t* codes = nullptr;
  const float* scales = nullptr;              // [groups][8] 2^(e - 127 - 2) / post_scale
  const std::int32_t* corrections = nullptr;  // [groups][8] -12 * sum of the block's codes
  float post_scale = 1;                       // multiplies the finished sum
};

// Where quantize_row() writes a QuantizedRow of n values: sizes padded to groups of 8 blocks.
struct QuantizedRowStorage {
  std::int8_t* codes = nullptr;
  float* scales = nullptr;
  std::int32_t* corrections = nullptr;
};

inline std::int64_t mx_groups(std::int64_t n) { return (n / 32 + kMxGroup - 1) / kMxGroup; }

// MXFP4 quantization of one token's BF16-valued activations; n is a multiple of 32. Non-finite
// values make the block's scale, and so the result, NaN.
QuantizedRow quantize_row(std::span<const float> x, const QuantizedRowStorage& storage);

// The same in the form that travels between processes, 4.25 bits a value: packed [n/2] as weights
// are, scales [n/32].
void pack_row(std::span<const float> x, std::uint8_t* packed, std::uint8_t* scales);
// What quantize_row() gives for the n values that went into pack_row(), also when pieces of them
// were packed apart.
QuantizedRow unpack_row(const std::uint8_t* packed, const std::uint8_t* scales, std::int64_t n,
                        const QuantizedRowStorage& storage);

// The product of weight rows with tokens: out[token * out_stride + row].
struct Mxfp4Product {
  const std::uint8_t* packed = nullptr;  // [rows, n/2] as in the checkpoint
  const std::uint8_t* scales = nullptr;  // [rows, n/32]
  std::int64_t rows = 0;
  std::int64_t n = 0;
  const QuantizedRow* const* x = nullptr;  // [tokens]
  std::int64_t tokens = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

// Scratch for a panel of rows, aligned to 64 bytes.
inline std::int64_t mxfp4_panel_bytes(std::int64_t n) {
  constexpr std::int64_t kMaxPanelRows = 32;
  return mx_groups(n) * kMxGroup * kMaxPanelRows * (32 + std::int64_t{sizeof(float)});
}

// One implementation.
struct Mxfp4Kernel {
  InstructionSet instruction_set = InstructionSet::kGeneric;
  const char* name = "";
  // `panel` holds mxfp4_panel_bytes(n).
  void (*dot)(const Mxfp4Product& product, std::byte* panel) = nullptr;
  // Runs `rounds` of the multiply-add instruction on registers; returns the multiply-adds done.
  std::int64_t (*peak)(std::int64_t rounds) = nullptr;
};

// Those that this machine can run, best first; the plain loop is the last.
std::span<const Mxfp4Kernel> mxfp4_kernels();
// kAuto: the best. An Error if this machine lacks the instructions.
const Mxfp4Kernel& mxfp4_kernel(InstructionSet instruction_set);

// The plain loop.
void mxfp4_dot_generic(const Mxfp4Product& product, std::byte* panel);

#if defined(__x86_64__)
void mxfp4_dot_avx2(const Mxfp4Product& product, std::byte* panel);
void mxfp4_dot_avx_vnni(const Mxfp4Product& product, std::byte* panel);
void mxfp4_dot_avx512_vnni(const Mxfp4Product& product, std::byte* panel);
std::int64_t mxfp4_peak_avx2(std::int64_t rounds);
std::int64_t mxfp4_peak_avx_vnni(std::int64_t rounds);
std::int64_t mxfp4_peak_avx512_vnni(std::int64_t rounds);
#endif

}  // namespace quern::kernels
