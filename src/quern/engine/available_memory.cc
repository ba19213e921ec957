// See available_memory.h. Formats: proc(5), cgroups(7), the kernel's cgroup-v2.rst.
#include "quern/engine/available_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

namespace quern::engine {
namespace {

namespace fs = std::filesystem;

// The number behind `name` in lines of "name value"; for an empty name the file's only number.
std::optional<std::uint64_t> number_in(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  std::uint64_t value = 0;
  while (name.empty() || file >> key) {
    const bool wanted = key == name;
    if (wanted) return file >> value ? std::optional(value) : std::nullopt;  // "max" is no number
    std::string rest;
    std::getline(file, rest);
  }
  return {};
}

// What the group of `directory` leaves, if it limits. Pages of files are dropped before a group
// runs out, so they are not counted as used: those of weights that an earlier run has read are
// active ones.
std::optional<std::uint64_t> left_in(const fs::path& directory, const char* limit, const char* use,
                                     const std::string& prefix) {
  const auto most = number_in(directory / limit, "");
  const auto used = number_in(directory / use, "");
  if (!most || !used) return {};
  std::uint64_t dropped = 0;
  for (const char* pages : {"inactive_file", "active_file"})
    dropped += number_in(directory / "memory.stat", prefix + pages).value_or(0);
  dropped = std::min(*used, dropped);
  return *most - std::min(*most, *used - dropped);
}

// The process's group in the hierarchy of version 2 (no controller named) or of version 1's
// controller `memory`: "0::/a/b" or "5:memory:/a/b".
std::optional<std::string> group_of(const fs::path& file, bool version_1) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool found =
        version_1 ? controllers.find(",memory,") != std::string::npos : controllers == ",,";
    if (found) return line.substr(std::min(line.size(), second + 2));  // without the first slash
  }
  return {};
}

}  // namespace

std::uint64_t available_memory_bytes(const fs::path& proc, const fs::path& cgroups) {
  std::optional<std::uint64_t> least = number_in(proc / "meminfo", "MemAvailable:");
  if (least) *least *= 1024;
  for (const bool version_1 : {false, true}) {
    const auto group = group_of(proc / "self/cgroup", version_1);
    if (!group) continue;
    const fs::path root = version_1 ? cgroups / "memory" : cgroups;
    // In a container the path may be the host's, of which only the root is mounted.
    for (fs::path path = *group;; path = path.parent_path()) {
      const auto left = version_1 ? left_in(root / path, "memory.limit_in_bytes",
                                            "memory.usage_in_bytes", "total_")
                                  : left_in(root / path, "memory.max", "memory.current", "");
      if (left) least = std::min(least.value_or(*left), *left);
      if (path.empty() || path == path.parent_path()) break;
    }
  }
  return least.value_or(0);
}

}  // namespace quern::engine
