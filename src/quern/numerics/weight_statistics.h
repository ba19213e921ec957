// What a quantized weight lost: error power, clipping, values flushed to zero, scales.
// Must never depend on anything but the stored bytes: errors are those that a reader will see.
// Proved by tests/numerics/weight_statistics_test.cc (SIMD against the plain version).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"

namespace quern {

struct WeightStatistics {
  std::uint64_t elements = 0;
  std::uint64_t clipped = 0;  // larger than the largest value that the group can hold
  std::uint64_t flushed = 0;  // not zero, stored as zero
  double signal = 0;          // sum of squares of the weights
  double noise = 0;           // sum of squares of the errors
  double max_peak_error = 0;  // largest relative error of a group's largest magnitude
  // Groups by the biased binary exponent of their scale; for MX formats the E8M0 byte itself.
  std::array<std::uint64_t, 256> scales{};

  void merge(const WeightStatistics& other);
  // 10 log10(signal / noise); infinity without noise.
  double sqnr_db() const;
};

// Values of one group, all of them or a part, beside what a reader decodes.
struct StoredPart {
  std::span<const float> weights;
  std::span<const float> restored;
  float scale = 1;
  double low = 0;  // the least and the largest value that the group can hold
  double high = 0;
  double peak = 0;      // the largest magnitude of the whole group
  bool is_last = true;  // of the group's parts; a group is counted once
};

// Any format; the sums are the same for every cut into parts but for their rounding. A weight that
// comes back as Inf or NaN counts as an error of the largest binary32.
void measure_part(const StoredPart& part, WeightStatistics& statistics);

// `restored` [n] in groups of `group` consecutive values (the last may be shorter), each with its
// scale; |value| / scale is at most `max_code`.
void measure_restored(std::span<const float> weights, std::span<const float> restored,
                      std::size_t group, std::span<const float> scales, float max_code,
                      WeightStatistics& statistics);

// MXFP4, fast: weights [n], packed [n/2], scales [n/32] as mxfp4_encode_row writes them. Weights
// must be finite.
//
// Bound: reads 2 + 17/32 bytes a BF16 weight; about 60 vector instructions a block.
void mxfp4_measure(std::span<const BF16> weights, std::span<const std::uint8_t> packed,
                   std::span<const std::uint8_t> scales, WeightStatistics& statistics);
void mxfp4_measure(std::span<const FP16> weights, std::span<const std::uint8_t> packed,
                   std::span<const std::uint8_t> scales, WeightStatistics& statistics);
void mxfp4_measure(std::span<const float> weights, std::span<const std::uint8_t> packed,
                   std::span<const std::uint8_t> scales, WeightStatistics& statistics);

}  // namespace quern
