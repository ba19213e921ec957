// How much memory this process can still take: what the machine has, or what its container allows.
// Must never count on more than the tightest control group above the process leaves.
// Proved by tests/engine/available_memory_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>

namespace quern::engine {

// Bytes that can be taken without swapping or being killed: MemAvailable of PROC/meminfo, and for
// the process's control group (PROC/self/cgroup) and those above it limit minus use (version 2:
// memory.max, memory.current; version 1: memory.limit_in_bytes, memory.usage_in_bytes, page cache
// that can be dropped taken off). 0 when the system does not say.
std::uint64_t available_memory_bytes(const std::filesystem::path& proc = "/proc",
                                     const std::filesystem::path& cgroups = "/sys/fs/cgroup");

}  // namespace quern::engine
