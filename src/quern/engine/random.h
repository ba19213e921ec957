// Random numbers as a pure function of (key, stream, position): no state, no order of drawing.
// Must never depend on which other requests run.
// Proved by tests/engine/random_test.cc (known answers of Random123).
#pragma once

#include <array>
#include <cstdint>

namespace quern::engine {

// Philox4x32 with 10 rounds: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Whose numbers: (request seed, 0) when the request has a seed, so that it repeats anywhere; else
// (engine seed, number of the request, from 1).
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t request = 0;
};

// Uniform in [0, 1), 53 bits, for the output token number `position`.
constexpr double uniform(const RandomKey& key, std::uint64_t position) {
  const auto low = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
  const auto high = [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); };
  const auto bits = philox4x32({low(position), high(position), low(key.request), high(key.request)},
                               {low(key.seed), high(key.seed)});
  const std::uint64_t mantissa = ((std::uint64_t{bits[0]} << 32) | bits[1]) >> 11;
  return static_cast<double>(mantissa) * 0x1p-53;
}

}  // namespace quern::engine
