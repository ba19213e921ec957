// What this machine can do: read bandwidth and multiply-add rates, the bounds beside which
// benchmarks print what they reached. Must never be used to decide results.
// Proved by tests/kernels/machine_probe_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quern/base/thread_team.h"

namespace quern::kernels {

// Reads every byte once with all threads, in large stretches, and returns a checksum (so that the
// reads cannot be left out): the fastest that memory can be consumed.
std::uint64_t read_all(ThreadTeam& team, std::span<const std::byte> bytes);

// Multiply-adds per second of CPU time, all threads together, on registers, over about `seconds`:
// 8-bit with the instructions of the best MXFP4 kernel; float32.
double int8_multiply_adds_per_second(ThreadTeam& team, double seconds);
double float_multiply_adds_per_second(ThreadTeam& team, double seconds);

}  // namespace quern::kernels
