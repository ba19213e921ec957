// SplitMix64: a cheap generator whose n-th number can be had without the ones before it, for
// made-up weights and cache contents. Must never be used for sampling (that is engine/random.h) or
// secrets. Proved by tests/bench/random_checkpoint_test.cc.
#pragma once

#include <cstdint>

namespace quern {

// The output function for the state x (Steele, Lea, Flood: Fast splittable pseudorandom number
// generators, 2014).
constexpr std::uint64_t split_mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

// The numbers of a seed, one behind the other.
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t seed) : state_(split_mix64(seed)) {}
  std::uint64_t next() { return split_mix64(state_++); }

 private:
  std::uint64_t state_;
};

}  // namespace quern
