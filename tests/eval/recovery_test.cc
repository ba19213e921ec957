// Recovery intervals: the closed forms against each other, and their coverage against a simulation
// that knows the true recovery.
#include "quern/eval/recovery.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace quern {
namespace {

// Share of 4,000 simulated evaluations whose interval holds the true ratio. The standard error of
// the share is sqrt(.95 * .05 / 4000) = 0.0034.
struct Coverage {
  double paired;
  double unpaired;
};
Coverage simulate(int questions, double both, double only_base, double only_quantized,
                  unsigned seed) {
  std::mt19937_64 random(seed);
  std::discrete_distribution<int> cell(
      {both, only_base, only_quantized, 1 - both - only_base - only_quantized});
  const double truth = (both + only_quantized) / (both + only_base);
  constexpr int kRuns = 4000;
  int paired = 0;
  int unpaired = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::size_t counts[4] = {};
    for (int i = 0; i < questions; ++i) ++counts[cell(random)];
    const auto interval =
        paired_recovery_interval(PairedCounts{counts[0], counts[1], counts[2], counts[3]});
    paired += interval && interval->low <= truth && truth <= interval->high ? 1 : 0;
    const auto mean = [&](std::size_t right) {
      const double p = static_cast<double>(right) / questions;
      return MeanScore{p, std::sqrt(p * (1 - p) / (questions - 1))};
    };
    const auto wide =
        unpaired_recovery_interval(mean(counts[0] + counts[1]), mean(counts[0] + counts[2]));
    unpaired += wide && wide->low <= truth && truth <= wide->high ? 1 : 0;
  }
  return {paired / static_cast<double>(kRuns), unpaired / static_cast<double>(kRuns)};
}

TEST(Recovery, PairedIntervalCoversTheTruth) {
  const struct {
    int questions;
    double both, only_base, only_quantized;
  } rows[] = {{1319, .93, .023, .012}, {1319, .90, .05, .05}, {200, .85, .07, .03},
              {100, .5, .2, .1},       {200, .95, .01, .005}, {1319, .2, .3, .1}};
  for (const auto& row : rows) {
    const unsigned seed = 20261124U + static_cast<unsigned>(row.questions);
    const Coverage coverage =
        simulate(row.questions, row.both, row.only_base, row.only_quantized, seed);
    // Nominal 0.95; the lower bound leaves three standard errors and the first-order error of the
    // method.
    EXPECT_GT(coverage.paired, 0.935) << row.questions << " seed " << seed;
    EXPECT_LT(coverage.paired, 0.995) << row.questions << " seed " << seed;
    // Answers of one model are correlated with the other's: ignoring that makes the interval too
    // wide.
    EXPECT_GE(coverage.unpaired, coverage.paired - 0.01) << row.questions << " seed " << seed;
  }
}

TEST(Recovery, UnpairedIntervalCoversIndependentRuns) {
  std::mt19937_64 random(7);
  constexpr int kRuns = 4000;
  constexpr int kQuestions = 1319;
  std::binomial_distribution<int> base(kQuestions, .95);
  std::binomial_distribution<int> quantized(kQuestions, .94);
  int covered = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto mean = [](int right) {
      const double p = right / static_cast<double>(kQuestions);
      return MeanScore{p, std::sqrt(p * (1 - p) / (kQuestions - 1))};
    };
    const auto interval = unpaired_recovery_interval(mean(base(random)), mean(quantized(random)));
    covered += interval->low <= .94 / .95 && .94 / .95 <= interval->high ? 1 : 0;
  }
  EXPECT_NEAR(covered / static_cast<double>(kRuns), 0.95, 0.012);
}

TEST(Recovery, GeneralFormAgreesWithTheCountsForManyQuestions) {
  std::vector<double> base;
  std::vector<double> quantized;
  const auto add = [&](int times, double b, double q) {
    for (int i = 0; i < times; ++i) {
      base.push_back(b);
      quantized.push_back(q);
    }
  };
  add(90'000, 1, 1);
  add(5'000, 1, 0);
  add(3'000, 0, 1);
  add(2'000, 0, 0);
  const auto counts = paired_counts(base, quantized);
  ASSERT_TRUE(counts);
  const auto from_counts = paired_recovery_interval(*counts);
  const auto general = paired_recovery_interval(base, quantized);
  // The half counts weigh 1/10,000 of the discordant pairs here.
  EXPECT_NEAR(from_counts->low, general->low, 2e-5);
  EXPECT_NEAR(from_counts->high, general->high, 2e-5);
}

TEST(Recovery, EdgeCases) {
  const auto same = paired_recovery_interval(PairedCounts{190, 0, 0, 10});
  ASSERT_TRUE(same);
  EXPECT_LT(same->low, 1);  // no discordant question is no certainty
  EXPECT_GT(same->high, 1);
  EXPECT_FALSE(paired_recovery_interval(PairedCounts{0, 0, 5, 5}));
  EXPECT_FALSE(paired_recovery_interval(PairedCounts{1, 0, 0, 0}));
  EXPECT_FALSE(unpaired_recovery_interval({0.5, std::nullopt}, {0.5, 0.1}));
  EXPECT_FALSE(paired_counts({0.5}, {1}));
}

TEST(Recovery, McNemar) {
  // scipy.stats.binomtest(min, n, 0.5).pvalue
  EXPECT_NEAR(mcnemar_p_value({0, 10, 2, 0}), 0.03857421875, 1e-12);
  EXPECT_NEAR(mcnemar_p_value({5, 5, 5, 5}), 1.0, 1e-12);
  EXPECT_NEAR(mcnemar_p_value({0, 0, 0, 9}), 1.0, 1e-12);
  EXPECT_NEAR(mcnemar_p_value({900, 30, 15, 10}), 0.035697803555194696, 1e-10);
}

}  // namespace
}  // namespace quern
