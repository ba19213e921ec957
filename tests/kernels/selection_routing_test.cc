// The two selection rules against tables: blocks of one query, experts of one token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "quern/kernels/block_selection.h"
#include "quern/kernels/routing.h"

namespace quern::kernels {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct BlockCase {
  const char* reason;
  std::vector<float> scores;
  int init_blocks, local_blocks;
  std::vector<std::int32_t> chosen;  // its size is topk
};

TEST(ChooseBlocks, Table) {
  const std::vector<BlockCase> cases = {
      {"all visible fit", {3, 1, 2}, 0, 1, {0, 1, 2, -1}},
      {"own block is forced although worst", {9, 8, 7, 6, -5}, 0, 1, {0, 1, 4}},
      {"highest scores win", {1, 9, 2, 8, 3, 0}, 0, 1, {1, 3, 5}},
      {"ties go to the lower block", {4, 4, 4, 4, 4, 0}, 0, 1, {0, 1, 5}},
      {"NaN loses against every number", {kNaN, -1e9F, -1e10F, 0, 0}, 0, 1, {1, 3, 4}},
      {"init blocks are forced first", {-9, 5, 6, 7, 0}, 1, 1, {0, 3, 4}},
      {"two local blocks", {9, 8, -7, -6}, 0, 2, {0, 2, 3}},
      {"no local block: only scores", {9, 8, 7, 6}, 0, 0, {0, 1}},
      {"one slot takes the own block", {9, 8, 7}, 0, 1, {2}},
  };
  for (const BlockCase& c : cases) {
    std::vector<float> scores = c.scores;
    std::vector<std::int32_t> order(scores.size());
    std::vector<std::int32_t> chosen(c.chosen.size());
    choose_blocks(scores, c.init_blocks, c.local_blocks, order, chosen);
    EXPECT_THAT(chosen, ElementsAreArray(c.chosen)) << c.reason;
  }
}

TEST(ChooseExperts, BiasChoosesButDoesNotWeigh) {
  std::vector<float> logits = {2, -1, 0.5, 1, 0, 3};
  const std::vector<float> bias = {0, 0.5, 0, -0.6F, 0.3F, -0.2F};
  std::vector<std::int32_t> chosen(4);
  std::vector<float> weights(4);
  choose_experts(logits, bias, chosen, weights);
  EXPECT_THAT(chosen, ElementsAre(0, 4, 1, 5));
  const std::vector<float> twice = {0.676934F, 0.384274F, 0.206694F,
                                    0.732098F};  // times the scaling factor 2
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(2 * weights[i], twice[i], 1e-6) << i;
}

TEST(ChooseExperts, TiesGoToTheLowerExpert) {
  std::vector<float> logits = {1, 1, 1, 1};
  std::vector<std::int32_t> chosen(2);
  std::vector<float> weights(2);
  choose_experts(logits, {}, chosen, weights);
  EXPECT_THAT(chosen, ElementsAre(0, 1));
  EXPECT_THAT(weights, ElementsAre(0.5F, 0.5F));
}

}  // namespace
}  // namespace quern::kernels
