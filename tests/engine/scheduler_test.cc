#include "quern/engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace quern::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Sequences with names, a pool, and steps written as "name:start+count" ("*" = samples).
class SchedulerTest : public ::testing::Test {
 protected:
  void make(int budget, int max_seqs, int num_blocks, bool caching = true) {
    pool_ = std::make_unique<BlockPool>(num_blocks, caching);
    scheduler_ = std::make_unique<Scheduler>(SchedulerOptions{budget, max_seqs}, *pool_, images_);
  }

  Sequence& add(int num_tokens, TokenId first = 0, std::int64_t priority = 0) {
    auto& sequence = *sequences_.emplace_back(std::make_unique<Sequence>());
    sequence.priority = priority;
    for (int i = 0; i < num_tokens; ++i) sequence.tokens.push_back(first + i);
    sequence.num_prompt_tokens = num_tokens;
    scheduler_->add(sequence);
    return sequence;
  }

  // One step; every sequence that samples gets a token.
  std::vector<std::string> step() {
    std::vector<std::string> result;
    const auto chunks = scheduler_->schedule();
    for (const ScheduledChunk& chunk : chunks) {
      EXPECT_GE(static_cast<int>(chunk.sequence->blocks.size()),
                blocks_for(chunk.start + chunk.count));
      result.push_back(name(*chunk.sequence) + ":" + std::to_string(chunk.start) + "+" +
                       std::to_string(chunk.count) + (chunk.samples ? "*" : ""));
    }
    scheduler_->commit();
    for (const ScheduledChunk& chunk : chunks) {
      if (chunk.samples) chunk.sequence->tokens.push_back(5000);
    }
    return result;
  }

  std::string name(const Sequence& sequence) const {
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i].get() == &sequence) return std::string(1, static_cast<char>('a' + i));
    }
    return "?";
  }

  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::unique_ptr<BlockPool> pool_;
  EncoderCache images_{0, 0};
  std::unique_ptr<Scheduler> scheduler_;
};

// Budget 8192, three decodes and a prompt of 20,000 tokens: its first token after step 3.
TEST_F(SchedulerTest, LongPromptIsSpreadOverStepsBesideDecodes) {
  make(8192, 16, 400);
  for (TokenId i = 0; i < 3; ++i) add(10, 1000 * i);
  EXPECT_THAT(step(), ElementsAre("a:0+10*", "b:0+10*", "c:0+10*"));
  add(20000);
  EXPECT_THAT(step(), ElementsAre("a:10+1*", "b:10+1*", "c:10+1*", "d:0+8189"));
  EXPECT_THAT(step(), ElementsAre("a:11+1*", "b:11+1*", "c:11+1*", "d:8189+8189"));
  EXPECT_THAT(step(), ElementsAre("a:12+1*", "b:12+1*", "c:12+1*", "d:16378+3622*"));
}

TEST_F(SchedulerTest, AtMostMaxNumSeqsRunAndNobodyOvertakes) {
  make(1000, 2, 100);
  for (TokenId i = 0; i < 3; ++i) add(5, 1000 * i);
  EXPECT_THAT(step(), ElementsAre("a:0+5*", "b:0+5*"));
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  scheduler_->remove(*sequences_[0]);
  EXPECT_THAT(step(), ElementsAre("b:5+1*", "c:0+5*"));
}

TEST_F(SchedulerTest, WaitingStopsAtTheFirstThatDoesNotFit) {
  make(10000, 16, 4);
  add(200, 0);      // 2 blocks
  add(300, 10000);  // 3 blocks: does not fit
  add(10, 20000);   // would fit
  EXPECT_THAT(step(), ElementsAre("a:0+200*"));
  EXPECT_EQ(scheduler_->num_waiting(), 2);
}

TEST_F(SchedulerTest, PreemptsTheYoungestToTheFrontOfTheQueue) {
  make(1000, 16, 3, /*caching=*/false);
  Sequence& a = add(128, 0);
  Sequence& b = add(128, 1000);
  add(10, 2000);
  EXPECT_THAT(step(), ElementsAre("a:0+128*", "b:0+128*", "c:0+10*"));
  // a needs a second block: c goes. b then needs one too: b itself is the youngest and goes.
  EXPECT_THAT(step(), ElementsAre("a:128+1*"));
  EXPECT_EQ(scheduler_->num_preemptions(), 2U);
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  EXPECT_EQ(b.num_tokens(), 129) << "its output is kept";
  EXPECT_EQ(b.num_computed, 0);
  scheduler_->remove(a);
  EXPECT_THAT(step(), ElementsAre("b:0+129*", "c:0+11*"));
}

TEST_F(SchedulerTest, LowerPriorityNumbersGoFirst) {
  make(1000, 2, 100);
  add(5, 0, 3);
  add(5, 1000, 1);
  add(5, 2000, 1);
  add(5, 3000, -4);
  EXPECT_THAT(step(), ElementsAre("d:0+5*", "b:0+5*")) << "equal ones in order of arrival";
  add(5, 4000, -9);
  EXPECT_THAT(step(), ElementsAre("d:5+1*", "b:5+1*")) << "who runs is not sent away for a place";
  scheduler_->remove(*sequences_[1]);
  EXPECT_THAT(step(), ElementsAre("d:6+1*", "e:0+5*"));
  EXPECT_THAT(step(), ElementsAre("e:5+1*", "d:7+1*"));
  scheduler_->remove(*sequences_[4]);
  scheduler_->remove(*sequences_[3]);
  EXPECT_THAT(step(), ElementsAre("c:0+5*", "a:0+5*"));
}

// vLLM's rule: the largest (priority, arrival) goes, though it was admitted first.
TEST_F(SchedulerTest, PreemptsTheLargestPriorityNumber) {
  make(1000, 16, 3, /*caching=*/false);
  add(10, 0, 7);
  EXPECT_THAT(step(), ElementsAre("a:0+10*"));
  add(128, 1000, 2);
  add(128, 2000, 2);
  EXPECT_THAT(step(), ElementsAre("a:10+1*", "b:0+128*", "c:0+128*"));
  EXPECT_THAT(step(), ElementsAre("b:128+1*")) << "b takes the block of a, then c goes itself";
  EXPECT_EQ(scheduler_->num_preemptions(), 2U);
  scheduler_->remove(*sequences_[1]);
  EXPECT_THAT(step(), ElementsAre("c:0+129*", "a:0+12*"));
}

TEST_F(SchedulerTest, NothingIsAdmittedInAStepThatPreempted) {
  make(1000, 16, 3, /*caching=*/false);
  add(128, 0);
  add(129, 1000);
  EXPECT_THAT(step(), ElementsAre("a:0+128*", "b:0+129*"));
  add(5, 2000);
  EXPECT_THAT(step(), ElementsAre("a:128+1*")) << "a free block is left, c must not overtake b";
}

TEST_F(SchedulerTest, PreemptedSequenceHitsItsOwnBlocks) {
  make(1000, 16, 4);
  Sequence& a = add(128, 0);
  add(200, 1000);
  for (int i = 0; i < 57; ++i) step();  // b has filled its second block
  EXPECT_THAT(step(), ElementsAre("a:184+1*")) << "b finds no third block";
  EXPECT_EQ(scheduler_->num_preemptions(), 1U);
  scheduler_->remove(a);
  EXPECT_THAT(step(), ElementsAre("b:256+1*"));
}

TEST_F(SchedulerTest, PrefixHitsSkipComputationAndAreCountedInTokens) {
  make(1000, 16, 16);
  Sequence& a = add(300);
  EXPECT_THAT(step(), ElementsAre("a:0+300*"));
  Sequence& b = add(300);
  EXPECT_THAT(step(), ElementsAre("a:300+1*", "b:256+44*"));
  EXPECT_EQ(b.num_cached_prompt_tokens, 256);
  EXPECT_EQ(scheduler_->prefix_cache_queries(), 600U);
  EXPECT_EQ(scheduler_->prefix_cache_hits(), 256U);
  EXPECT_EQ(b.blocks[0], a.blocks[0]);
  EXPECT_NE(b.blocks[2], a.blocks[2]) << "only full blocks are shared";
}

TEST_F(SchedulerTest, BlocksFilledByOutputAreFound) {
  make(1000, 16, 16);
  Sequence& a = add(100);
  for (int i = 0; i < 40; ++i) step();
  auto& b = *sequences_.emplace_back(std::make_unique<Sequence>());
  b.tokens.assign(a.tokens.begin(), a.tokens.begin() + 130);
  scheduler_->remove(a);
  EXPECT_EQ(pool_->num_free(), 16);
  scheduler_->add(b);
  EXPECT_THAT(step(), ElementsAre("b:128+2*"));
}

TEST_F(SchedulerTest, RemovingAWaitingSequenceKeepsTheOrderOfTheOthers) {
  make(5, 1, 16);
  add(5, 0);
  Sequence& b = add(5, 100);
  add(5, 200);
  EXPECT_THAT(step(), ElementsAre("a:0+5*"));
  scheduler_->remove(b);
  scheduler_->remove(*sequences_[0]);
  EXPECT_THAT(step(), ElementsAre("c:0+5*"));
  scheduler_->remove(*sequences_[2]);
  EXPECT_THAT(step(), IsEmpty());
  EXPECT_EQ(pool_->num_free(), 16);
}

}  // namespace
}  // namespace quern::engine
