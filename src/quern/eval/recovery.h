// Recovery: the share of the base model's score that a quantized model keeps, with its uncertainty.
// Must never pair answers to different questions: the caller pairs by document.
// Proved by tests/eval/recovery_test.cc (coverage measured by simulation).
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace quern {

// Questions by who answered them rightly; for 0/1 scores.
struct PairedCounts {
  std::size_t both_right = 0;
  std::size_t only_base = 0;
  std::size_t only_quantized = 0;
  std::size_t both_wrong = 0;

  std::size_t total() const { return both_right + only_base + only_quantized + both_wrong; }
};

struct Interval {
  double low = 0;
  double high = 0;
};

// A mean score with its standard error.
struct MeanScore {
  double value = 0;
  std::optional<double> stderr_of_mean;
};

// Empty unless every score is 0 or 1.
std::optional<PairedCounts> paired_counts(const std::vector<double>& base,
                                          const std::vector<double>& quantized);

// 95 % interval of quantized / base. Empty when it is not defined (base is 0, one question).
std::optional<Interval> paired_recovery_interval(const PairedCounts& counts);
// The same for scores of any kind, paired by index.
std::optional<Interval> paired_recovery_interval(const std::vector<double>& base,
                                                 const std::vector<double>& quantized);
std::optional<Interval> unpaired_recovery_interval(const MeanScore& base,
                                                   const MeanScore& quantized);

// Percentile intervals (2.5 % to 97.5 %) from resampling the questions with replacement, both
// answers to a question together. Needs no model of the scores; the generator's seed is fixed, so
// the same scores give the same intervals.
struct PairedBootstrap {
  Interval difference;               // mean of quantized - mean of base
  std::optional<Interval> recovery;  // empty when a resample has a base mean of 0
  std::size_t resamples = 0;
};
inline constexpr std::size_t kBootstrapResamples = 10'000;
// Empty for fewer than two questions.
std::optional<PairedBootstrap> paired_bootstrap(const std::vector<double>& base,
                                                const std::vector<double>& quantized,
                                                std::size_t resamples = kBootstrapResamples);
// Quantile of `values` (not empty), linear between order statistics as NumPy's default; reorders
// them.
double quantile(std::vector<double>& values, double share);

// Exact two-sided McNemar test: how likely so uneven a split of the questions that only one of the
// two answered rightly is, if both are equally good.
double mcnemar_p_value(const PairedCounts& counts);

}  // namespace quern
