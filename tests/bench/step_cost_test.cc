// Bytes and multiply-adds of a step against a calculation by hand.
#include "quern/bench/step_cost.h"

#include <gtest/gtest.h>

#include "tests/bench/small_checkpoint.h"
#include "tests/support/temp_directory.h"

namespace quern::bench {
namespace {

struct Expected {
  Operation operation;
  double bytes, int8_multiply_adds, float_multiply_adds;
};

void expect_costs(const StepCost& cost, std::span<const Expected> rows) {
  for (const Expected& row : rows) {
    const Cost& found = cost.of(row.operation);
    EXPECT_EQ(found.bytes, row.bytes) << operation_name(row.operation);
    EXPECT_EQ(found.int8_multiply_adds, row.int8_multiply_adds) << operation_name(row.operation);
    EXPECT_EQ(found.float_multiply_adds, row.float_multiply_adds) << operation_name(row.operation);
  }
}

// Hidden 64, 2 heads and 1 KV head of 32, index 1 x 32, 2 blocks selected; a dense layer (inner 64)
// and a sparse one (4 experts of inner 32 and a shared one in MXFP4, 2 chosen); vocabulary 512.
class StepCostOfSmallModel : public ::testing::Test {
 protected:
  StepCostOfSmallModel() { write_random_checkpoint(directory_ / "m", small_options()); }

  const test::TempDirectory directory_;
};

// A token behind 300 others that wants logits, and the first three tokens of a prompt that do not.
constexpr StepSequence kSequences[] = {{300, 1, true}, {0, 3, false}};
constexpr std::int64_t kExperts[] = {3};

TEST_F(StepCostOfSmallModel, EqualsTheCalculationByHand) {
  const Checkpoint checkpoint = Checkpoint::open(directory_ / "m");
  const ModelConfig config = parse_model_config(checkpoint.config());
  const ModelCost model(checkpoint, config, kernels::MoeBackend::kNative);
  // q 64 x 64, k and v 32 x 64 on each layer; index q and k 32 x 64 on one.
  constexpr double kQkv = 2 * (4096 + 2 * 2048) + 2 * 2048;
  // Keys attended to. Dense layer: 301, and 1 + 2 + 3. Sparse: the token at 300 is the 45th of its
  // block, so 128 + 45, and 1 + 2 + 3. A sequence's keys are read once: 301 or 173, and 3.
  constexpr double kDenseKeys = 301 + 6, kSparseKeys = 173 + 6;
  constexpr double kKeysRead = (301 + 3) + (173 + 3);
  constexpr double kExpert = 3 * 32 * 64;  // weights
  constexpr double kExpertBytes = kExpert / 2 + kExpert / 32;
  const Expected kRows[] = {
      {Operation::kEmbed, 4 * 64 * 2, 0, 0},
      // Two norms a layer and the last, of 64; q and k of 32 on both layers; index q and k on one.
      {Operation::kNorm, 2 * (5 * 64 + 4 * 32 + 2 * 32), 0, 0},
      {Operation::kProjectQkv, 2 * kQkv, 0, 4 * kQkv},
      // The prompt's tokens see one block and have nothing to choose.
      {Operation::kSelectBlocks, 2 * 32 * 301, 0, 32 * 301},
      {Operation::kAttend, 2 * 2 * 32 * kKeysRead, 0, 2 * 64 * (kDenseKeys + kSparseKeys)},
      {Operation::kOutputProjection, 2 * 2 * 4096, 0, 4 * 2 * 4096},
      {Operation::kMlp, 2 * 3 * 4096, 0, 4 * 3 * 4096},
      {Operation::kRoute, 4 * 4 * 64, 0, 4 * 4 * 64},
      // Three of four experts and the shared one; each token two and the shared one.
      {Operation::kMoe, 4 * kExpertBytes, 4 * 3 * kExpert, 0},
      {Operation::kLogits, 2 * 512 * 64, 0, 512 * 64},
  };
  expect_costs(model.step(kSequences, kExperts), kRows);
}

TEST_F(StepCostOfSmallModel, EmulationMultipliesFloats) {
  const Checkpoint checkpoint = Checkpoint::open(directory_ / "m");
  const ModelConfig config = parse_model_config(checkpoint.config());
  const ModelCost model(checkpoint, config, kernels::MoeBackend::kEmulation);
  const StepCost cost = model.step(kSequences, kExperts);
  EXPECT_EQ(cost.total().int8_multiply_adds, 0);
  EXPECT_EQ(cost.of(Operation::kMoe).float_multiply_adds, 4 * 3 * 3 * 32 * 64);
}

// Without what the tokens chose: one token chooses two experts, two of them two or three or four,
// 4 (1 - 1/4) = 3 in the mean.
TEST_F(StepCostOfSmallModel, ExpectsExpertsWhereNoneAreGiven) {
  const Checkpoint checkpoint = Checkpoint::open(directory_ / "m");
  const ModelConfig config = parse_model_config(checkpoint.config());
  const ModelCost model(checkpoint, config, kernels::MoeBackend::kNative);
  constexpr double kExpertBytes = 3 * 32 * 64 * (0.5 + 1.0 / 32);
  const StepSequence one[] = {{0, 1, true}};
  const StepSequence two[] = {{0, 2, true}};
  EXPECT_EQ(model.step(one).of(Operation::kMoe).bytes, (2 + 1) * kExpertBytes);
  EXPECT_EQ(model.step(two).of(Operation::kMoe).bytes, (3 + 1) * kExpertBytes);
}

// 128 choose 4 at 8 tokens: 28.7 (shared reference, table 2.6).
TEST(StepCost, ExpectedExpertsOfTheRelease) {
  EXPECT_DOUBLE_EQ(expected_experts(128, 4, 1), 4);
  EXPECT_NEAR(expected_experts(128, 4, 8), 28.7, 0.05);
  EXPECT_NEAR(expected_experts(128, 4, 64), 111.2, 0.1);
}

TEST(StepCost, BoundIsTheLongerOfReadingAndComputing) {
  const MachineRates rates{100, 50, 10};
  EXPECT_DOUBLE_EQ(bound_seconds({300, 50, 10}, rates), 3);
  EXPECT_DOUBLE_EQ(bound_seconds({100, 50, 20}, rates), 3);  // 1 + 2
}

}  // namespace
}  // namespace quern::bench
