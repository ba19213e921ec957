// Ranks from the environment, and that every shard has exactly one.
#include "quern/quantize/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "tests/support/error_message.h"

namespace quern {
namespace {

using Variables = std::map<std::string, std::string>;

Rank rank_from(const Variables& variables) {
  return rank_from_environment([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

TEST(Ranks, FromTheLauncher) {
  struct {
    Variables variables;
    int rank, world_size;
  } const rows[] = {
      {{}, 0, 1},
      {{{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}}, 3, 4},
      {{{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}}, 0, 2},
      {{{"SLURM_PROCID", "7"}, {"SLURM_NTASKS", "8"}}, 7, 8},
      // Under srun, and in the batch script, which is not one of the tasks.
      {{{"SLURM_PROCID", "7"},
        {"SLURM_NTASKS", "8"},
        {"SLURM_JOB_ID", "1"},
        {"SLURM_STEP_NUM_TASKS", "8"}},
       7,
       8},
      {{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}}, 0, 1},
      {{{"SLURM_NTASKS", "8"}}, 0, 1},
      // mpirun inside a Slurm job.
      {{{"OMPI_COMM_WORLD_RANK", "1"},
        {"OMPI_COMM_WORLD_SIZE", "2"},
        {"SLURM_PROCID", "0"},
        {"SLURM_NTASKS", "1"}},
       1,
       2},
  };
  for (const auto& row : rows) {
    const Rank found = rank_from(row.variables);
    EXPECT_EQ(found.rank, row.rank);
    EXPECT_EQ(found.world_size, row.world_size);
  }
}

TEST(Ranks, NonsenseIsNamed) {
  for (const char* bad : {"", "x", "-1", "1x", "99999999999"}) {
    EXPECT_THAT(test::error_message([&] {
                  rank_from({{"PMI_RANK", bad}, {"PMI_SIZE", "2"}});
                }),
                ::testing::HasSubstr("PMI_RANK: expected a count"));
  }
  EXPECT_THAT(test::error_message([&] {
                rank_from({{"PMI_RANK", "2"}, {"PMI_SIZE", "2"}});
              }),
              ::testing::HasSubstr("PMI_RANK=2 is not below PMI_SIZE=2"));
}

// Largest first to the least loaded is at most 4/3 of the best possible (Graham 1969), which is at
// least the mean and the largest shard.
TEST(Ranks, LoadIsEven) {
  std::mt19937 random(7);
  for (int world_size = 1; world_size <= 9; ++world_size) {
    std::vector<std::uint64_t> sizes(59);
    for (auto& size : sizes) size = random() % 1000 + 1;
    const std::vector<int> ranks = assign_shards(sizes, world_size);
    std::vector<std::uint64_t> load(static_cast<std::size_t>(world_size));
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      ASSERT_GE(ranks[i], 0);
      ASSERT_LT(ranks[i], world_size);
      load[static_cast<std::size_t>(ranks[i])] += sizes[i];
    }
    const auto total = std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0});
    const double mean = static_cast<double>(total) / world_size;
    EXPECT_LE(static_cast<double>(*std::max_element(load.begin(), load.end())), mean * 4 / 3);
  }
}

}  // namespace
}  // namespace quern
