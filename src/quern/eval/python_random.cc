// See python_random.h. Sources: CPython Modules/_randommodule.c and Lib/random.py (3.11); Matsumoto
// and Nishimura, mt19937ar.c (2002).
#include "quern/eval/python_random.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <unordered_set>

#include "quern/base/error.h"

namespace quern {
namespace {

constexpr std::size_t kShift = 397;
constexpr std::uint32_t kMatrix = 0x9908b0dfU;
constexpr std::uint32_t kUpperBit = 0x80000000U;
constexpr std::uint32_t kLowerBits = 0x7fffffffU;

// The smallest population for which sample() keeps a set of taken indices instead of a pool:
// 21, plus 4^ceil(log4(3k)) for k > 5 (the size of a set of k small integers in CPython).
std::size_t pool_limit(std::size_t k) {
  std::size_t limit = 21;
  if (k > 5) {
    std::size_t power = 1;
    while (power < 3 * k) power *= 4;
    limit += power;
  }
  return limit;
}

}  // namespace

PythonRandom::PythonRandom(std::int64_t seed) {
  const std::uint64_t magnitude =
      seed < 0 ? 0 - static_cast<std::uint64_t>(seed) : static_cast<std::uint64_t>(seed);
  const std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(magnitude),
                                         static_cast<std::uint32_t>(magnitude >> 32)};
  const std::size_t key_words = key[1] != 0 ? 2 : 1;

  auto& mt = state_;
  const auto mixed = [&](std::size_t i) { return mt[i - 1] ^ (mt[i - 1] >> 30); };
  mt[0] = 19650218U;
  for (std::size_t i = 1; i < kStateWords; ++i) {
    mt[i] = 1812433253U * mixed(i) + static_cast<std::uint32_t>(i);
  }
  std::size_t i = 1;
  const auto advance = [&] {
    if (++i == kStateWords) {
      mt[0] = mt[kStateWords - 1];
      i = 1;
    }
  };
  for (std::size_t step = 0, j = 0; step < kStateWords; ++step) {
    mt[i] = (mt[i] ^ (mixed(i) * 1664525U)) + key[j] + static_cast<std::uint32_t>(j);
    advance();
    j = (j + 1) % key_words;
  }
  for (std::size_t step = 0; step + 1 < kStateWords; ++step) {
    mt[i] = (mt[i] ^ (mixed(i) * 1566083941U)) - static_cast<std::uint32_t>(i);
    advance();
  }
  mt[0] = kUpperBit;
}

void PythonRandom::regenerate() {
  for (std::size_t i = 0; i < kStateWords; ++i) {
    const std::uint32_t y = (state_[i] & kUpperBit) | (state_[(i + 1) % kStateWords] & kLowerBits);
    state_[i] = state_[(i + kShift) % kStateWords] ^ (y >> 1) ^ ((y & 1U) != 0 ? kMatrix : 0U);
  }
  next_ = 0;
}

std::uint32_t PythonRandom::next32() {
  if (next_ == kStateWords) regenerate();
  std::uint32_t y = state_[next_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680U;
  y ^= (y << 15) & 0xefc60000U;
  return y ^ (y >> 18);
}

double PythonRandom::random() {
  const std::uint32_t high = next32() >> 5;
  const std::uint32_t low = next32() >> 6;
  return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
}

std::uint32_t PythonRandom::randbelow(std::uint32_t n) {
  QUERN_CHECK(n > 0);
  const int unused_bits = std::countl_zero(n);
  std::uint32_t drawn = next32() >> unused_bits;
  while (drawn >= n) drawn = next32() >> unused_bits;
  return drawn;
}

std::vector<std::size_t> PythonRandom::sample(std::size_t n, std::size_t k) {
  if (k > n) throw Error("cannot choose {} examples from {}", k, n);
  if (n > std::numeric_limits<std::uint32_t>::max()) throw Error("cannot sample from {} rows", n);
  std::vector<std::size_t> chosen(k);
  if (n <= pool_limit(k)) {
    std::vector<std::size_t> pool(n);
    for (std::size_t i = 0; i < n; ++i) pool[i] = i;
    for (std::size_t i = 0; i < k; ++i) {
      const std::size_t j = randbelow(static_cast<std::uint32_t>(n - i));
      chosen[i] = pool[j];
      pool[j] = pool[n - i - 1];
    }
    return chosen;
  }
  std::unordered_set<std::size_t> taken;
  for (std::size_t& choice : chosen) {
    do {
      choice = randbelow(static_cast<std::uint32_t>(n));
    } while (!taken.insert(choice).second);
  }
  return chosen;
}

}  // namespace quern
