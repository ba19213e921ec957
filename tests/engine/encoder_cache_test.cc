#include "quern/engine/encoder_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace quern::engine {
namespace {

ImageHash hash_of(int name) {
  ImageHash hash{};
  hash[0] = static_cast<std::byte>(name);
  return hash;
}

// Inserts, computes and gives back, as a finished request does.
void show(EncoderCache& cache, int name, int rows) {
  ASSERT_TRUE(cache.acquire(hash_of(name)) || cache.insert(hash_of(name), rows));
  cache.set_computed(hash_of(name));
  cache.release(hash_of(name));
}

TEST(EncoderCache, KeepsWhatNobodyHoldsUntilRoomIsNeeded) {
  EncoderCache cache(10, 3);
  show(cache, 1, 4);
  show(cache, 2, 4);
  show(cache, 1, 4);  // 2 is now the least recently held
  EXPECT_EQ(cache.used(), 8);
  ASSERT_TRUE(cache.insert(hash_of(3), 5));
  EXPECT_EQ(cache.used(), 9);
  EXPECT_FALSE(cache.acquire(hash_of(2)));
  EXPECT_TRUE(cache.acquire(hash_of(1)));
  EXPECT_TRUE(cache.computed(hash_of(1)));
  EXPECT_EQ(cache.features(hash_of(3)).size(), 15U);
  EXPECT_FALSE(cache.computed(hash_of(3)));
}

TEST(EncoderCache, HeldImagesStay) {
  EncoderCache cache(10, 1);
  ASSERT_TRUE(cache.insert(hash_of(1), 6));
  EXPECT_FALSE(cache.insert(hash_of(2), 5));
  ASSERT_TRUE(cache.acquire(hash_of(1)));
  cache.set_computed(hash_of(1));
  cache.release(hash_of(1));
  EXPECT_FALSE(cache.insert(hash_of(2), 5)) << "still held once";
  cache.release(hash_of(1));
  EXPECT_TRUE(cache.insert(hash_of(2), 5));
  EXPECT_FALSE(cache.acquire(hash_of(1)));
  EXPECT_FALSE(cache.insert(hash_of(3), 11)) << "larger than all";
}

TEST(EncoderCache, WhatWasNeverComputedIsForgotten) {
  EncoderCache cache(10, 1);
  ASSERT_TRUE(cache.insert(hash_of(1), 6));
  cache.release(hash_of(1));
  EXPECT_EQ(cache.used(), 0);
  EXPECT_FALSE(cache.acquire(hash_of(1)));
}

TEST(EncoderCacheDeathTest, ReleasedTwice) {
  EncoderCache cache(10, 1);
  ASSERT_TRUE(cache.insert(hash_of(1), 6));
  cache.set_computed(hash_of(1));
  cache.release(hash_of(1));
  EXPECT_DEATH(cache.release(hash_of(1)), "released twice");
}

// Random use against a list that is kept in order.
TEST(EncoderCache, RandomUseAgainstAModel) {
  const unsigned seed = 20261125;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  EncoderCache cache(20, 1);
  struct Known {
    int rows;
    int references;
  };
  std::map<int, Known> known;
  std::vector<int> unheld;  // least recently held first
  const auto used = [&] {
    int sum = 0;
    for (const auto& [name, entry] : known) sum += entry.rows;
    return sum;
  };
  for (int round = 0; round < 20000; ++round) {
    const int name = static_cast<int>(random() % 12);
    const int rows = 1 + name % 7;
    const bool take = random() % 2 == 0;
    if (!take) {
      const auto entry = known.find(name);
      if (entry == known.end() || entry->second.references == 0) continue;
      cache.release(hash_of(name));
      if (--entry->second.references == 0) unheld.push_back(name);
    } else if (cache.acquire(hash_of(name))) {
      ASSERT_TRUE(known.contains(name));
      if (known[name].references++ == 0) std::erase(unheld, name);
    } else {
      ASSERT_FALSE(known.contains(name));
      int freeable = 0;
      for (const int other : unheld) freeable += known[other].rows;
      const bool fits = rows <= 20 - used() + freeable;
      ASSERT_EQ(cache.insert(hash_of(name), rows), fits);
      if (!fits) continue;
      while (rows > 20 - used()) {
        known.erase(unheld.front());
        unheld.erase(unheld.begin());
      }
      known[name] = {rows, 1};
      cache.set_computed(hash_of(name));
    }
    ASSERT_EQ(cache.used(), used());
    ASSERT_LE(cache.used(), 20);
  }
}

}  // namespace
}  // namespace quern::engine
