// See recovery.h.
#include "quern/eval/recovery.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>

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
constexpr std::uint64_t kBootstrapSeed = 1234;

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

double quantile(std::vector<double>& values, double share) {
  QUERN_CHECK(!values.empty() && share >= 0 && share <= 1);
  const double at = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(below);
  std::nth_element(values.begin(), middle, values.end());
  if (below + 1 >= values.size()) return *middle;
  const double next = *std::min_element(middle + 1, values.end());
  return *middle + (at - static_cast<double>(below)) * (next - *middle);
}

std::optional<PairedBootstrap> paired_bootstrap(const std::vector<double>& base,
                                                const std::vector<double>& quantized,
                                                std::size_t resamples) {
  QUERN_CHECK(base.size() == quantized.size() && resamples > 0);
  const std::size_t n = base.size();
  if (n < 2 || n > UINT32_MAX) return std::nullopt;
  std::mt19937_64 random(kBootstrapSeed);
  std::vector<double> differences;
  std::vector<double> recoveries;
  for (std::size_t r = 0; r < resamples; ++r) {
    double base_sum = 0;
    double quantized_sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      // The upper 32 bits scaled to n: uniform but for 1 part in 2^32 / n.
      const std::size_t pick = static_cast<std::size_t>(((random() >> 32) * n) >> 32);
      base_sum += base[pick];
      quantized_sum += quantized[pick];
    }
    differences.push_back((quantized_sum - base_sum) / static_cast<double>(n));
    if (base_sum > 0) recoveries.push_back(quantized_sum / base_sum);
  }
  const auto middle_95 = [](std::vector<double>& values) {
    return Interval{quantile(values, 0.025), quantile(values, 0.975)};
  };
  PairedBootstrap out{middle_95(differences), std::nullopt, resamples};
  if (recoveries.size() == resamples) out.recovery = middle_95(recoveries);
  return out;
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
