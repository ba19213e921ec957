// See machine_probe.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quern/kernels/cpu/machine_probe.cc"
#include "quern/kernels/machine_probe.h"

#include <hwy/foreach_target.h>
// Behind foreach_target.h, as Highway asks.
#include <hwy/highway.h>

#include <atomic>
#include <ctime>
#include <numeric>
#include <vector>

#include "quern/kernels/cpu/mxfp4_dot.h"

HWY_BEFORE_NAMESPACE();
namespace quern::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

std::uint64_t sum_words(const std::uint64_t* from, std::int64_t count) {
  const hn::ScalableTag<std::uint64_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto a = hn::Zero(d), b = a, c = a, e = a;
  std::int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    a = hn::Add(a, hn::LoadU(d, from + i));
    b = hn::Add(b, hn::LoadU(d, from + i + lanes));
    c = hn::Add(c, hn::LoadU(d, from + i + 2 * lanes));
    e = hn::Add(e, hn::LoadU(d, from + i + 3 * lanes));
  }
  HWY_ALIGN std::uint64_t parts[hn::MaxLanes(d)] = {};
  hn::Store(hn::Add(hn::Add(a, b), hn::Add(c, e)), d, parts);
  std::uint64_t sum = 0;
  for (const std::uint64_t part : parts) sum += part;
  for (; i < count; ++i) sum += from[i];
  return sum;
}

// Multiply-adds of `rounds` rounds over ten sums. Each starts with another value: the compiler
// makes one chain of equal ones.
float multiply_add(std::int64_t rounds, float seed, std::int64_t& done) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, seed), y = hn::Set(d, 0.5F);
  auto s0 = x, s1 = hn::Add(s0, x), s2 = hn::Add(s1, x), s3 = hn::Add(s2, x), s4 = hn::Add(s3, x),
       s5 = hn::Add(s4, x), s6 = hn::Add(s5, x), s7 = hn::Add(s6, x), s8 = hn::Add(s7, x),
       s9 = hn::Add(s8, x);
  for (std::int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, y, x);
    s1 = hn::MulAdd(s1, y, x);
    s2 = hn::MulAdd(s2, y, x);
    s3 = hn::MulAdd(s3, y, x);
    s4 = hn::MulAdd(s4, y, x);
    s5 = hn::MulAdd(s5, y, x);
    s6 = hn::MulAdd(s6, y, x);
    s7 = hn::MulAdd(s7, y, x);
    s8 = hn::MulAdd(s8, y, x);
    s9 = hn::MulAdd(s9, y, x);
  }
  done = rounds * 10 * static_cast<std::int64_t>(hn::Lanes(d));
  const auto sum = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)),
                           hn::Add(hn::Add(hn::Add(s4, s5), hn::Add(s6, s7)), hn::Add(s8, s9)));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace quern::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quern::kernels {

HWY_EXPORT(sum_words);
HWY_EXPORT(multiply_add);

namespace {

constexpr std::int64_t kStretch = std::int64_t{1} << 20;  // bytes that a thread takes at a time
constexpr std::int64_t kRounds = 20000;

// Of the calling thread: other programs on the machine do not count.
double thread_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The rate of all threads, each running work() -> multiply-adds done until the time is over.
template <typename Work>
double rate(ThreadTeam& team, double seconds, Work&& work) {
  std::vector<double> rates(static_cast<std::size_t>(team.size()));
  team.run([&](int thread) {
    const double start = thread_cpu_seconds();
    std::int64_t done = 0;
    double elapsed = 0;
    while ((elapsed = thread_cpu_seconds() - start) < seconds) done += work();
    rates[static_cast<std::size_t>(thread)] = static_cast<double>(done) / elapsed;
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace

std::uint64_t read_all(ThreadTeam& team, std::span<const std::byte> bytes) {
  std::atomic<std::uint64_t> sum{0};
  const auto words = static_cast<std::int64_t>(bytes.size() / sizeof(std::uint64_t));
  const auto* from = reinterpret_cast<const std::uint64_t*>(bytes.data());
  team.parallel_for(words, kStretch / 8, [&](std::int64_t begin, std::int64_t end, int) {
    sum += HWY_DYNAMIC_DISPATCH(sum_words)(from + begin, end - begin);
  });
  for (std::size_t i = static_cast<std::size_t>(words) * 8; i < bytes.size(); ++i)
    sum += static_cast<std::uint64_t>(bytes[i]);
  return sum;
}

double int8_multiply_adds_per_second(ThreadTeam& team, double seconds) {
  return rate(team, seconds, [] { return mxfp4_kernels().front().peak(kRounds); });
}

double float_multiply_adds_per_second(ThreadTeam& team, double seconds) {
  std::atomic<float> sink{0};
  return rate(team, seconds, [&] {
    std::int64_t done = 0;
    sink.store(HWY_DYNAMIC_DISPATCH(multiply_add)(kRounds, 1.25F, done), std::memory_order_relaxed);
    return done;
  });
}

}  // namespace quern::kernels
#endif  // HWY_ONCE
