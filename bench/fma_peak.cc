// See fma_peak.h.
#include "bench/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "quern/base/thread_team.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/fma_peak.cc"
#include <hwy/foreach_target.h>
// Behind foreach_target.h, as Highway asks.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quern::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kChains = 12;

// Returns the multiply-adds of a lane set done; `sink` keeps the compiler from dropping them.
std::int64_t run_chains(std::int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = hn::Set(d, static_cast<float>(c));
  const auto x = hn::Set(d, *sink);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = hn::MulAdd(sums[c], x, x);
  }
  for (int c = 0; c < kChains; ++c) *sink += hn::GetLane(sums[c]);
  return rounds * kChains * static_cast<std::int64_t>(hn::Lanes(d));
}

}  // namespace quern::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern::bench {

HWY_EXPORT(run_chains);

double multiply_add_peak(int threads) {
  ThreadTeam team(threads);
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    std::int64_t done = 0;
    const auto start = std::chrono::steady_clock::now();
    team.run([&](int thread) {
      float sink = 0.5F;
      const std::int64_t count = HWY_DYNAMIC_DISPATCH(run_chains)(std::int64_t{1} << 25, &sink);
      if (thread == 0) done = count;
    });
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(done) * team.size() / time.count());
  }
  return best;
}

}  // namespace quern::bench
#endif  // HWY_ONCE
