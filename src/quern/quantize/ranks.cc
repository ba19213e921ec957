// See ranks.h.
#include "quern/quantize/ranks.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>

#include "quern/base/error.h"

namespace quern {
namespace {

constexpr struct {
  const char* rank;
  const char* size;
} kLaunchers[] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                  {"PMI_RANK", "PMI_SIZE"},
                  {"SLURM_PROCID", "SLURM_NTASKS"}};

int parse_count(const char* name, const std::string& text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw Error(
        "environment variable {}: expected a count, found '{}'; give --rank and --world_size", name,
        text);
  }
  return value;
}

}  // namespace

Rank rank_from_environment(const std::function<std::optional<std::string>(const char*)>& variable) {
  for (const auto& launcher : kLaunchers) {
    const auto rank = variable(launcher.rank);
    const auto size = variable(launcher.size);
    if (!rank || !size) continue;
    // Slurm gives its batch script rank 0 of all; only under srun there are others.
    if (launcher.rank == std::string_view("SLURM_PROCID") && variable("SLURM_JOB_ID") &&
        !variable("SLURM_STEP_NUM_TASKS")) {
      continue;
    }
    const Rank found{parse_count(launcher.rank, *rank), parse_count(launcher.size, *size)};
    if (found.rank >= found.world_size) {
      throw Error("environment: {}={} is not below {}={}", launcher.rank, found.rank, launcher.size,
                  found.world_size);
    }
    return found;
  }
  return {};
}

std::vector<int> assign_shards(std::span<const std::uint64_t> shard_bytes, int world_size) {
  QUERN_CHECK(world_size > 0);
  std::vector<std::size_t> order(shard_bytes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return shard_bytes[a] > shard_bytes[b]; });
  std::vector<std::uint64_t> load(static_cast<std::size_t>(world_size), 0);
  std::vector<int> ranks(shard_bytes.size());
  for (const std::size_t shard : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += shard_bytes[shard];
    ranks[shard] = static_cast<int>(least - load.begin());
  }
  return ranks;
}

}  // namespace quern
