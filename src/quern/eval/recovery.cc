// See recovery.h.
#include "quern/eval/recovery.h"

#include <algorithm>
#include <cmath>

#include "quern/base/error.h"

// Derivation. With mean scores B and Q of the same n questions, R = Q / B and, to first order,
//   log R - log R0 = (Q - Q0) / Q0 - (B - B0) / B0,
// the mean over questions of d_i = q_i / Q - b_i / B (which has mean 0), so
//   Var(log R) = sum d_i^2 / (n (n - 1)),  interval = R exp(-+ 1.96 sqrt(Var)).
// The log scale keeps the interval positive and its coverage better than that of R itself.
//
// For 0/1 scores let a, b, c be the counts of questions that both, only the base, only the
// quantized model answered rightly. Then n B = a + b, n Q = a + c and
//   sum d_i^2 / n^2 = a (1/(a+c) - 1/(a+b))^2 + b / (a+b)^2 + c / (a+c)^2 = (b + c) / ((a+b)(a+c)).
// Without discordant questions that is 0, a false certainty; as Agresti and Min (Statistics in
// Medicine 2005, "Effects and non-effects of paired identical observations") we add 1/2 to each of
// the four cells, in the ratio and in its variance.
//
// Unpaired, the two means are independent: Var(log R) = (se_B / B)^2 + (se_Q / Q)^2.
namespace quern {
namespace {

constexpr double kNormal95 = 1.959963984540054;

Interval around(double ratio, double variance_of_log) {
  const double factor = std::exp(kNormal95 * std::sqrt(variance_of_log));
  return {ratio / factor, ratio * factor};
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

}  // namespace

std::optional<PairedCounts> paired_counts(const std::vector<double>& base,
                                          const std::vector<double>& quantized) {
  QUERN_CHECK(base.size() == quantized.size());
  PairedCounts counts;
  for (std::size_t i = 0; i < base.size(); ++i) {
    if ((base[i] != 0 && base[i] != 1) || (quantized[i] != 0 && quantized[i] != 1))
      return std::nullopt;
    if (base[i] == 1) {
      ++(quantized[i] == 1 ? counts.both_right : counts.only_base);
    } else {
      ++(quantized[i] == 1 ? counts.only_quantized : counts.both_wrong);
    }
  }
  return counts;
}

std::optional<Interval> paired_recovery_interval(const PairedCounts& counts) {
  if (counts.total() < 2 || counts.both_right + counts.only_base == 0) return std::nullopt;
  const double b = static_cast<double>(counts.only_base) + 0.5;
  const double c = static_cast<double>(counts.only_quantized) + 0.5;
  const double base_right = static_cast<double>(counts.both_right) + 0.5 + b;
  const double quantized_right = static_cast<double>(counts.both_right) + 0.5 + c;
  return around(quantized_right / base_right, (b + c) / (base_right * quantized_right));
}

std::optional<Interval> paired_recovery_interval(const std::vector<double>& base,
                                                 const std::vector<double>& quantized) {
  QUERN_CHECK(base.size() == quantized.size());
  if (base.size() < 2) return std::nullopt;
  const double base_mean = mean_of(base);
  const double quantized_mean = mean_of(quantized);
  if (!(base_mean > 0) || !(quantized_mean > 0)) return std::nullopt;
  double sum = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    const double d = quantized[i] / quantized_mean - base[i] / base_mean;
    sum += d * d;
  }
  const auto n = static_cast<double>(base.size());
  return around(quantized_mean / base_mean, sum / (n * (n - 1)));
}

std::optional<Interval> unpaired_recovery_interval(const MeanScore& base,
                                                   const MeanScore& quantized) {
  if (!base.stderr_of_mean || !quantized.stderr_of_mean) return std::nullopt;
  if (!(base.value > 0) || !(quantized.value > 0)) return std::nullopt;
  const double base_part = *base.stderr_of_mean / base.value;
  const double quantized_part = *quantized.stderr_of_mean / quantized.value;
  return around(quantized.value / base.value,
                base_part * base_part + quantized_part * quantized_part);
}

double mcnemar_p_value(const PairedCounts& counts) {
  // Under the null hypothesis the smaller count is Binomial(n, 1/2); the sum of its lower tail,
  // twice.
  const std::size_t n = counts.only_base + counts.only_quantized;
  const std::size_t smaller = std::min(counts.only_base, counts.only_quantized);
  const auto log_choose = [n](std::size_t k) {
    return std::lgamma(static_cast<double>(n) + 1) - std::lgamma(static_cast<double>(k) + 1) -
           std::lgamma(static_cast<double>(n - k) + 1);
  };
  double tail = 0;
  for (std::size_t k = 0; k <= smaller; ++k) {
    tail += std::exp(log_choose(k) - static_cast<double>(n) * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

}  // namespace quern
