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

void measure_part(const StoredPart& part, WeightStatistics& statistics) {
  QUERN_CHECK(part.restored.size() == part.weights.size());
  // A scale of amax / max_code is rounded: the largest value may lie an ulp above the limit. A
  // scale of zero clips nothing: it flushes.
  const bool clips = part.scale != 0;
  const double low = part.low * (1 + 0x1p-20);
  const double high = part.high * (1 + 0x1p-20);
  double peak_error = 0;
  for (std::size_t i = 0; i < part.weights.size(); ++i) {
    const double weight = part.weights[i];
    double error = weight - part.restored[i];
    if (!std::isfinite(error)) error = std::numeric_limits<float>::max();
    statistics.signal += weight * weight;
    statistics.noise += error * error;
    statistics.clipped += clips && (weight < low || weight > high);
    statistics.flushed += weight != 0 && part.restored[i] == 0;
    if (std::abs(weight) == part.peak) peak_error = std::max(peak_error, std::abs(error));
  }
  statistics.elements += part.weights.size();
  if (part.peak > 0) {
    statistics.max_peak_error = std::max(statistics.max_peak_error, peak_error / part.peak);
  }
  statistics.scales[std::bit_cast<std::uint32_t>(part.scale) >> 23 & 0xFF] += part.is_last;
}

void measure_restored(std::span<const float> weights, std::span<const float> restored,
                      std::size_t group, std::span<const float> scales, float max_code,
                      WeightStatistics& statistics) {
  QUERN_CHECK(group > 0 && restored.size() == weights.size() &&
              scales.size() == (weights.size() + group - 1) / group);
  for (std::size_t g = 0; g < scales.size(); ++g) {
    const std::size_t begin = g * group;
    const std::size_t count = std::min(group, weights.size() - begin);
    StoredPart part{weights.subspan(begin, count), restored.subspan(begin, count), scales[g]};
    part.high = double{scales[g]} * max_code;
    part.low = -part.high;
    for (const float weight : part.weights)
      part.peak = std::max(part.peak, std::abs(double{weight}));
    measure_part(part, statistics);
  }
}

}  // namespace quern
