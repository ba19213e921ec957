#include "quern/engine/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>

#include "quern/engine/sequence.h"

namespace quern::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<TokenId> sequence(int size, TokenId first = 0) {
  std::vector<TokenId> tokens(static_cast<std::size_t>(size));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(BlockPool, BlocksForAnyNumberOfTokens) {
  EXPECT_EQ(blocks_for(0), 0);
  EXPECT_EQ(blocks_for(128), 1);
  EXPECT_EQ(blocks_for(129), 2);
  EXPECT_EQ(blocks_for(INT32_MAX), 1 << 24);
}

// Allocates and caches the full blocks of `tokens`, as a finished prefill does.
std::vector<BlockId> fill(BlockPool& pool, const std::vector<TokenId>& tokens,
                          std::string_view salt = "") {
  std::vector<BlockId> table;
  EXPECT_TRUE(pool.allocate(blocks_for(static_cast<int>(tokens.size())), table));
  const auto keys = make_prefix_keys(salt, {});
  for (std::size_t i = 0; (i + 1) * kBlockTokens <= tokens.size(); ++i) {
    table[i] = pool.cache(table[i], i == 0 ? kNoBlock : table[i - 1],
                          std::span(tokens).subspan(i * kBlockTokens, kBlockTokens),
                          i < keys.size() ? keys[i] : std::string());
  }
  return table;
}

std::vector<BlockId> prefix(const BlockPool& pool, const std::vector<TokenId>& tokens,
                            std::string_view salt = "") {
  std::vector<BlockId> table;
  pool.find_prefix(tokens, make_prefix_keys(salt, {}), table);
  return table;
}

TEST(BlockPool, AllocatesAllOrNothing) {
  BlockPool pool(4, true);
  std::vector<BlockId> table;
  EXPECT_FALSE(pool.allocate(5, table));
  EXPECT_THAT(table, IsEmpty());
  EXPECT_TRUE(pool.allocate(3, table));
  EXPECT_THAT(table, ElementsAre(0, 1, 2));
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockPool, FreedBlocksComeBackLeastRecentlyFreedFirstTailBeforeHead) {
  BlockPool pool(5, true);
  std::vector<BlockId> a, b, all;
  ASSERT_TRUE(pool.allocate(2, a));  // 0 1
  ASSERT_TRUE(pool.allocate(2, b));  // 2 3; 4 was never used
  pool.release(b);
  pool.release(a);
  ASSERT_TRUE(pool.allocate(5, all));
  EXPECT_THAT(all, ElementsAre(4, 3, 2, 1, 0));
}

// serving table of vLLM: the last token is never covered.
TEST(BlockPool, PrefixNeverCoversTheLastToken) {
  const struct {
    int tokens;
    std::size_t hit_blocks;
  } rows[] = {{1, 0}, {100, 0}, {128, 0}, {129, 1}, {256, 1}, {257, 2}, {300, 2}};
  for (const auto& row : rows) {
    BlockPool pool(8, true);
    pool.release(fill(pool, sequence(row.tokens)));
    EXPECT_EQ(prefix(pool, sequence(row.tokens)).size(), row.hit_blocks) << row.tokens;
  }
}

TEST(BlockPool, PrefixStopsAtTheFirstDifferentBlockOrSalt) {
  BlockPool pool(8, true);
  const auto tokens = sequence(400);
  const auto table = fill(pool, tokens, "alice");
  EXPECT_EQ(prefix(pool, tokens, "alice"), std::vector<BlockId>(table.begin(), table.begin() + 3));
  EXPECT_THAT(prefix(pool, tokens, "bob"), IsEmpty());
  EXPECT_THAT(prefix(pool, tokens), IsEmpty());
  auto changed = tokens;
  changed[200] = 7;  // the third block is equal, but not behind the same prefix
  EXPECT_THAT(prefix(pool, changed, "alice"), ElementsAre(table[0]));
}

TEST(BlockPool, FreeCachedBlockIsFoundUntilItIsTaken) {
  BlockPool pool(3, true);
  const auto tokens = sequence(257);
  const auto table = fill(pool, tokens);
  pool.release(table);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(pool.count_free(prefix(pool, tokens)), 2);

  std::vector<BlockId> other;
  ASSERT_TRUE(pool.allocate(2, other));  // the partial block and the second full one: the tail
  EXPECT_THAT(other, ElementsAre(table[2], table[1]));
  EXPECT_THAT(prefix(pool, tokens), ElementsAre(table[0]));
  const auto hit = prefix(pool, tokens);
  pool.acquire(hit);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_FALSE(pool.allocate(1, other)) << "a hit takes the block out of the free list";
}

TEST(BlockPool, EqualBlockIsReplacedByTheCachedOne) {
  BlockPool pool(6, true);
  const auto tokens = sequence(256);
  const auto first = fill(pool, tokens);
  const auto second = fill(pool, tokens);  // computed at the same time
  EXPECT_EQ(first, second);
  EXPECT_EQ(pool.num_free(), 4);
  pool.release(first);
  EXPECT_EQ(pool.num_free(), 4) << "still held by the second";
  pool.release(second);
  EXPECT_EQ(pool.num_free(), 6);
}

TEST(BlockPool, WithoutCachingNothingIsFound) {
  BlockPool pool(4, false);
  const auto tokens = sequence(300);
  pool.release(fill(pool, tokens));
  EXPECT_THAT(prefix(pool, tokens), IsEmpty());
}

TEST(BlockPoolDeathTest, DoubleReleaseAborts) {
  BlockPool pool(1, true);
  std::vector<BlockId> table;
  ASSERT_TRUE(pool.allocate(1, table));
  pool.release(table);
  EXPECT_DEATH(pool.release(table), "released twice");
}

// Random prompts over a small alphabet of blocks against a map of what each block holds.
TEST(BlockPool, RandomUseAgainstAModel) {
  const unsigned seed = 20261124;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  BlockPool pool(24, true);
  std::vector<std::vector<TokenId>> content(24);  // all tokens up to the end of the block
  struct Holder {
    std::vector<BlockId> table;
  };
  std::vector<Holder> holders;
  for (int round = 0; round < 4000; ++round) {
    if (!holders.empty() && random() % 2 == 0) {
      const std::size_t victim = random() % holders.size();
      pool.release(holders[victim].table);
      holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(victim));
      continue;
    }
    std::vector<TokenId> tokens;
    const int num_blocks = 1 + static_cast<int>(random() % 5);
    for (int b = 0; b < num_blocks; ++b) {
      tokens.insert(tokens.end(), kBlockTokens, static_cast<TokenId>(random() % 2));
    }
    tokens.push_back(9);
    Holder holder;
    pool.find_prefix(tokens, {}, holder.table);
    for (std::size_t i = 0; i < holder.table.size(); ++i) {
      const auto end = tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * kBlockTokens);
      ASSERT_EQ(content[static_cast<std::size_t>(holder.table[i])],
                std::vector<TokenId>(tokens.begin(), end));
    }
    const int needed = num_blocks + 1 - static_cast<int>(holder.table.size());
    if (needed > pool.num_free() - pool.count_free(holder.table)) continue;
    const std::size_t hits = holder.table.size();
    pool.acquire(holder.table);
    ASSERT_TRUE(pool.allocate(needed, holder.table));
    for (std::size_t i = hits; i < static_cast<std::size_t>(num_blocks); ++i) {
      const auto end = tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * kBlockTokens);
      content[static_cast<std::size_t>(holder.table[i])].assign(tokens.begin(), end);
      holder.table[i] = pool.cache(holder.table[i], i == 0 ? kNoBlock : holder.table[i - 1],
                                   std::span(tokens).subspan(i * kBlockTokens, kBlockTokens), "");
    }
    holders.push_back(std::move(holder));
  }
  for (const Holder& holder : holders) pool.release(holder.table);
  EXPECT_EQ(pool.num_free(), 24);
}

}  // namespace
}  // namespace quern::engine
