// Images in the scheduler: when they are encoded, where chunks are cut, who holds what.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <string>

#include "quern/engine/scheduler.h"

namespace quern::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ImageHash hash_of(int name) {
  ImageHash hash{};
  hash[0] = static_cast<std::byte>(name);
  hash[1] = static_cast<std::byte>(name >> 8);
  return hash;
}

// Steps are written as "name:start+count", then images that the step encodes as "!image".
class SchedulerImagesTest : public ::testing::Test {
 protected:
  void make(SchedulerOptions options, int cache_rows, int num_blocks = 64) {
    pool_ = std::make_unique<BlockPool>(num_blocks, true);
    images_ = std::make_unique<EncoderCache>(cache_rows, 1);
    scheduler_ = std::make_unique<Scheduler>(options, *pool_, *images_);
  }

  // `images`: {offset, rows, name}.
  Sequence& add(int num_tokens, std::vector<std::array<int, 3>> images) {
    auto& sequence = *sequences_.emplace_back(std::make_unique<Sequence>());
    sequence.tokens.assign(static_cast<std::size_t>(num_tokens), 7);
    sequence.num_prompt_tokens = num_tokens;
    for (const auto& [offset, rows, name] : images) {
      sequence.images.push_back({offset, rows, hash_of(name), 0, rows});
    }
    sequence.prefix_keys = make_prefix_keys("", sequence.images);
    scheduler_->add(sequence);
    return sequence;
  }

  std::vector<std::string> step() {
    std::vector<std::string> result, encoded;
    const auto chunks = scheduler_->schedule();
    for (const ScheduledChunk& chunk : chunks) {
      result.push_back(name(*chunk.sequence) + ":" + std::to_string(chunk.start) + "+" +
                       std::to_string(chunk.count));
      for (const SequenceImage& image : chunk.sequence->images) {
        const bool needed = image.offset < chunk.start + chunk.count && image.end() > chunk.start;
        EXPECT_EQ(image.held, needed) << result.back() << " image at " << image.offset;
        if (!image.held || images_->computed(image.hash)) continue;
        images_->set_computed(image.hash);
        encoded.push_back("!" + std::to_string(static_cast<int>(image.hash[0])));
      }
    }
    scheduler_->commit();
    for (const ScheduledChunk& chunk : chunks) {
      if (chunk.samples) chunk.sequence->tokens.push_back(5000);
    }
    result.insert(result.end(), encoded.begin(), encoded.end());
    return result;
  }

  std::string name(const Sequence& sequence) const {
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i].get() == &sequence) return std::string(1, static_cast<char>('a' + i % 26));
    }
    return "?";
  }

  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<EncoderCache> images_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerImagesTest, EncodedInTheStepOfItsFirstPlaceholder) {
  make({.max_num_batched_tokens = 30, .max_num_seqs = 4, .max_encoder_tokens = 100}, 100);
  add(100, {{20, 30, 1}, {70, 10, 2}});
  EXPECT_THAT(step(), ElementsAre("a:0+30", "!1"));  // cut inside the image
  EXPECT_THAT(step(), ElementsAre("a:30+30"));
  EXPECT_EQ(images_->used(), 30);
  EXPECT_THAT(step(), ElementsAre("a:60+30", "!2"));
  EXPECT_THAT(step(), ElementsAre("a:90+10"));
  EXPECT_THAT(step(), ElementsAre("a:100+1"));
}

TEST_F(SchedulerImagesTest, AChunkIsCutBeforeAnImageThatTheStepCannotEncode) {
  make({.max_num_batched_tokens = 100, .max_num_seqs = 4, .max_encoder_tokens = 50}, 50);
  add(100, {{10, 30, 1}, {50, 30, 2}});
  EXPECT_THAT(step(), ElementsAre("a:0+50", "!1"));
  EXPECT_THAT(step(), ElementsAre("a:50+50", "!2"));
}

// Equal images are encoded once, whoever shows them, in the same step and later.
TEST_F(SchedulerImagesTest, EqualImagesShareOneEntry) {
  make({.max_num_batched_tokens = 200, .max_num_seqs = 4, .max_encoder_tokens = 50}, 50);
  add(60, {{5, 40, 1}});
  add(60, {{5, 40, 1}});
  add(100, {{5, 40, 1}, {50, 40, 1}});
  EXPECT_THAT(step(), ElementsAre("a:0+60", "b:0+60", "c:0+80", "!1"));
  EXPECT_THAT(step(), ElementsAre("a:60+1", "b:60+1", "c:80+20"));
  EXPECT_EQ(scheduler_->mm_cache_queries(), 4U);
  EXPECT_EQ(scheduler_->mm_cache_hits(), 3U);
  for (auto& sequence : sequences_) scheduler_->remove(*sequence);
  add(60, {{9, 40, 1}});
  EXPECT_THAT(step(), ElementsAre("d:0+60")) << "still there";
}

TEST_F(SchedulerImagesTest, WaitsForRoomThatOthersHold) {
  make({.max_num_batched_tokens = 40, .max_num_seqs = 4, .max_encoder_tokens = 50}, 50);
  add(60, {{5, 50, 1}});
  add(60, {{5, 50, 2}});
  EXPECT_THAT(step(), ElementsAre("a:0+40", "!1"));
  EXPECT_THAT(step(), ElementsAre("a:40+20", "b:0+5"));
  EXPECT_THAT(step(), ElementsAre("a:60+1", "b:5+39", "!2"));
}

TEST_F(SchedulerImagesTest, NobodyIsAdmittedInFrontOfAnImageWithoutRoom) {
  make({.max_num_batched_tokens = 40, .max_num_seqs = 4, .max_encoder_tokens = 50}, 50);
  add(60, {{0, 50, 1}});
  add(60, {{0, 50, 2}});
  add(10, {});
  EXPECT_THAT(step(), ElementsAre("a:0+40", "!1"));
  EXPECT_THAT(step(), ElementsAre("a:40+20")) << "b has no room and c does not overtake";
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  EXPECT_THAT(step(), ElementsAre("a:60+1", "b:0+39", "!2"));
}

TEST_F(SchedulerImagesTest, ChunksNeverEndInsideAnImageWhenAsked) {
  make({.max_num_batched_tokens = 40,
        .max_num_seqs = 4,
        .max_encoder_tokens = 50,
        .disable_chunked_mm_input = true},
       50);
  add(100, {{20, 30, 1}, {50, 40, 2}});
  EXPECT_THAT(step(), ElementsAre("a:0+20"));
  EXPECT_THAT(step(), ElementsAre("a:20+30", "!1"));
  EXPECT_THAT(step(), ElementsAre("a:50+40", "!2"));
  EXPECT_THAT(step(), ElementsAre("a:90+10"));
}

TEST_F(SchedulerImagesTest, PrefixHitMayEndInsideAnImage) {
  make({.max_num_batched_tokens = 400, .max_num_seqs = 4, .max_encoder_tokens = 300}, 300);
  add(300, {{100, 100, 1}});
  EXPECT_THAT(step(), ElementsAre("a:0+300", "!1"));
  add(300, {{100, 100, 1}});
  EXPECT_THAT(step(), ElementsAre("a:300+1", "b:256+44")) << "image and all: computed before";
  add(180, {{100, 80, 1}});  // the same name with other rows stands for another image
  sequences_.back()->images[0].hash = hash_of(2);
  add(190, {{100, 90, 1}});
  EXPECT_EQ(sequences_[1]->num_cached_prompt_tokens, 256);
}

TEST_F(SchedulerImagesTest, OtherImageOrOtherPlaceIsAnotherPrefix) {
  make({.max_num_batched_tokens = 1000, .max_num_seqs = 8, .max_encoder_tokens = 300}, 300);
  add(400, {{200, 20, 1}});
  step();
  const struct {
    std::vector<std::array<int, 3>> images;
    int cached;
  } rows[] = {
      {{{200, 20, 1}}, 384}, {{{200, 20, 2}}, 128},
      {{{201, 20, 1}}, 128}, {{}, 128},
      {{{5, 20, 1}}, 0},     {{{200, 20, 1}, {300, 20, 1}}, 256},
  };
  for (const auto& row : rows) {
    const Sequence& sequence = add(400, row.images);
    step();
    EXPECT_EQ(sequence.num_cached_prompt_tokens, row.cached);
  }
}

// b holds the cache and needs a block; a waits for the cache. b preempts itself, and a goes on in
// the same step.
TEST_F(SchedulerImagesTest, PreemptionGivesTheRoomToWhoWaits) {
  make({.max_num_batched_tokens = 100, .max_num_seqs = 4, .max_encoder_tokens = 120}, 120, 4);
  Sequence& a = add(300, {{100, 10, 1}});
  EXPECT_THAT(step(), ElementsAre("a:0+100"));
  a.images[0].num_tokens = 120;  // from now on it needs the whole cache
  Sequence& b = add(200, {{0, 120, 2}});
  ASSERT_TRUE(images_->insert(hash_of(2), 120));  // held by a third
  images_->set_computed(hash_of(2));
  EXPECT_THAT(step(), ElementsAre("b:0+100"));
  EXPECT_EQ(b.blocks.size(), 1U);
  images_->release(hash_of(2));
  std::vector<BlockId> rest;
  ASSERT_TRUE(pool_->allocate(pool_->num_free(), rest));
  b.num_computed = 100;
  // b wants tokens 100..199, a second block, and there is none.
  EXPECT_THAT(step(), ElementsAre("a:100+100", "!1")) << "with the block that b gave back";
  EXPECT_EQ(scheduler_->num_preemptions(), 1U);
  EXPECT_FALSE(b.images[0].held);
  pool_->release(rest);
}

TEST_F(SchedulerImagesTest, RemovalGivesEverythingBack) {
  make({.max_num_batched_tokens = 30, .max_num_seqs = 4, .max_encoder_tokens = 50}, 50);
  Sequence& a = add(100, {{0, 50, 1}});
  step();
  scheduler_->remove(a);
  EXPECT_TRUE(images_->insert(hash_of(9), 50)) << "nobody holds the first image any more";
}

// Random requests, cancellations, small caches: everything ends, nothing is left over.
TEST_F(SchedulerImagesTest, RandomUseAlwaysEnds) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](int limit) {
      return static_cast<int>(random() % static_cast<unsigned>(limit));
    };
    sequences_.clear();
    const bool whole = seed % 4 == 3;  // chunks never end inside an image
    make({.max_num_batched_tokens = whole ? 60 : 5 + below(100),
          .max_num_seqs = 1 + below(6),
          .max_encoder_tokens = 60,
          .disable_chunked_mm_input = whole},
         60 + below(60), 7 + below(8));
    std::set<Sequence*> live;
    int steps = 0;
    for (int i = 0; i < 60 || !live.empty(); ++i) {
      ASSERT_LT(++steps, 20000);
      if (i < 60) {
        std::vector<std::array<int, 3>> images;
        int at = below(40);
        while (at < 400) {
          const int name = below(10);
          const int rows = 1 + name * 6;
          images.push_back({at, rows, name});
          at += rows + below(200);
        }
        live.insert(&add(at + below(60), images));
      }
      step();
      for (auto it = live.begin(); it != live.end();) {
        Sequence& sequence = **it;
        const bool done = sequence.num_tokens() > sequence.num_prompt_tokens + 5 || below(100) == 0;
        if (done) scheduler_->remove(sequence);
        it = done ? live.erase(it) : std::next(it);
      }
    }
    EXPECT_EQ(pool_->num_free(), pool_->num_blocks());
    EXPECT_TRUE(images_->insert(hash_of(999), images_->capacity())) << "a reference is left over";
  }
}

}  // namespace
}  // namespace quern::engine
