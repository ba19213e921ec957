// The plain version; see weight_statistics.h.
#include "quern/numerics/weight_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "quern/base/error.h"

namespace quern {

void WeightStatistics::merge(const WeightStatistics& other) {
  elements += other.elements;
  clipped += other.clipped;
  flushed += other.flushed;
  signal += other.signal;
  noise += other.noise;
  max_peak_error = std::max(max_peak_error, other.max_peak_error);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] += other.scales[i];
}

double WeightStatistics::sqnr_db() const {
  if (noise == 0) return std::numeric_limits<double>::infinity();
  return 10.0 * std::log10(signal / noise);
}

void measure_restored(std::span<const float> weights, std::span<const float> restored,
                      std::size_t group, std::span<const float> scales, float max_code,
                      WeightStatistics& statistics) {
  QUERN_CHECK(group > 0 && restored.size() == weights.size() &&
              scales.size() == (weights.size() + group - 1) / group);
  statistics.elements += weights.size();
  for (std::size_t g = 0; g < scales.size(); ++g) {
    // A scale of amax / max_code is rounded: the largest value may lie an ulp above the limit.
    const double limit = double{scales[g]} * max_code * (1 + 0x1p-20);
    double peak = 0;
    double peak_error = 0;
    for (std::size_t i = g * group; i < std::min(weights.size(), (g + 1) * group); ++i) {
      const double weight = weights[i];
      const double error = weight - restored[i];
      statistics.signal += weight * weight;
      statistics.noise += error * error;
      statistics.clipped += std::abs(weight) > limit;
      statistics.flushed += weight != 0 && restored[i] == 0;
      if (std::abs(weight) > peak) {
        peak = std::abs(weight);
        peak_error = std::abs(error) / peak;
      }
    }
    statistics.max_peak_error = std::max(statistics.max_peak_error, peak_error);
    ++statistics.scales[std::bit_cast<std::uint32_t>(scales[g]) >> 23 & 0xFF];
  }
}

}  // namespace quern
