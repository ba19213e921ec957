// What the tests of this folder share: a body run once per instruction set that this machine has,
// and 32 random bits. Must never leave a mocked instruction set behind.
#pragma once

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <bit>
#include <cstdint>
#include <random>

namespace quern {

inline std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

inline std::uint32_t next(std::mt19937& random) { return static_cast<std::uint32_t>(random()); }

template <typename Fn>
void for_each_simd_target(Fn&& fn) {
  const std::int64_t supported = hwy::SupportedTargets();
  for (std::int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const std::int64_t target = rest & -rest;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    fn();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace quern
