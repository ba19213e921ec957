// CPython's random.Random(int): the generator that chooses few-shot examples.
// Must never be replaced by std::mt19937 with a plain seed: CPython seeds by an array.
// Proved by tests/eval/python_random_test.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace quern {

// Not thread-safe: its stream is consumed in document order.
class PythonRandom {
 public:
  // As Random(seed): the sign of the seed does not matter.
  explicit PythonRandom(std::int64_t seed);

  // The next tempered 32-bit output (getrandbits(32)).
  std::uint32_t next32();
  // Uniform in [0, n); n in [1, 2^32). Random._randbelow_with_getrandbits.
  std::uint32_t randbelow(std::uint32_t n);
  // Random.random(): 53 bits in [0, 1).
  double random();
  // Random.sample(range(n), k): k different indices in the order drawn. Throws Error if k > n.
  std::vector<std::size_t> sample(std::size_t n, std::size_t k);

 private:
  static constexpr std::size_t kStateWords = 624;

  void regenerate();

  std::array<std::uint32_t, kStateWords> state_;
  std::size_t next_ = kStateWords;
};

}  // namespace quern
