#include "quern/engine/block_pool.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <random>

#include "quern/base/error.h"

namespace quern::engine {

BlockPool::BlockPool(int num_blocks, bool enable_prefix_caching)
    : caching_(enable_prefix_caching),
      hash_seed_((std::uint64_t{std::random_device{}()} << 32) | std::random_device{}()),
      blocks_(static_cast<std::size_t>(num_blocks)) {
  QUERN_CHECK(num_blocks > 0);
  if (caching_) {
    tokens_.resize(blocks_.size() * kBlockTokens);
    buckets_.assign(std::bit_ceil(blocks_.size()), kNoBlock);
  }
  for (BlockId id = 0; id < num_blocks; ++id) push_free(id);
}

bool BlockPool::allocate(int count, std::vector<BlockId>& table) {
  QUERN_CHECK(count >= 0);
  if (count > num_free_) return false;
  for (int i = 0; i < count; ++i) {
    const BlockId id = first_free_;
    unlink_free(id);
    if (at(id).cached) evict(id);
    at(id).references = 1;
    table.push_back(id);
  }
  return true;
}

void BlockPool::release(std::span<const BlockId> table) {
  for (auto it = table.rbegin(); it != table.rend(); ++it) release_one(*it);
}

void BlockPool::release_one(BlockId id) {
  Block& block = at(id);
  QUERN_CHECK(block.references > 0, "block {} is released twice", id);
  if (--block.references == 0) push_free(id);
}

void BlockPool::find_prefix(std::span<const TokenId> tokens, std::span<const std::string> keys,
                            std::vector<BlockId>& table) const {
  if (!caching_ || tokens.empty()) return;
  const std::size_t limit = (tokens.size() - 1) / kBlockTokens;
  BlockId parent = kNoBlock;
  for (std::size_t i = 0; i < limit; ++i) {
    parent = find(parent, tokens.subspan(i * kBlockTokens, kBlockTokens),
                  i < keys.size() ? std::string_view(keys[i]) : std::string_view());
    if (parent == kNoBlock) return;
    table.push_back(parent);
  }
}

int BlockPool::count_free(std::span<const BlockId> table) const {
  return static_cast<int>(
      std::ranges::count_if(table, [&](BlockId id) { return at(id).references == 0; }));
}

void BlockPool::acquire(std::span<const BlockId> table) {
  for (const BlockId id : table) {
    Block& block = at(id);
    QUERN_CHECK(block.cached);
    if (block.references++ == 0) unlink_free(id);
  }
}

BlockId BlockPool::cache(BlockId block, BlockId parent, std::span<const TokenId> tokens,
                         std::string_view key) {
  if (!caching_) return block;
  QUERN_CHECK(tokens.size() == kBlockTokens && at(block).references > 0 && !at(block).cached);
  QUERN_CHECK(parent == kNoBlock || (at(parent).cached && at(parent).references > 0));
  if (const BlockId known = find(parent, tokens, key); known != kNoBlock) {
    acquire({&known, 1});
    release_one(block);
    return known;
  }
  Block& entry = at(block);
  entry.cached = true;
  entry.parent = parent;
  entry.key = key;
  entry.bucket = bucket_of(parent, tokens, key);
  entry.next_in_bucket = buckets_[entry.bucket];
  buckets_[entry.bucket] = block;
  if (parent != kNoBlock) ++at(parent).children;
  std::ranges::copy(tokens, tokens_of(block).begin());
  return block;
}

std::span<TokenId> BlockPool::tokens_of(BlockId id) {
  return std::span(tokens_).subspan(static_cast<std::size_t>(id) * kBlockTokens, kBlockTokens);
}

std::span<const TokenId> BlockPool::tokens_of(BlockId id) const {
  return std::span(tokens_).subspan(static_cast<std::size_t>(id) * kBlockTokens, kBlockTokens);
}

std::uint32_t BlockPool::bucket_of(BlockId parent, std::span<const TokenId> tokens,
                                   std::string_view key) const {
  std::uint64_t seed = hash_seed_ + static_cast<std::uint64_t>(parent + 1);
  if (!key.empty()) seed = XXH3_64bits_withSeed(key.data(), key.size(), seed);
  const std::uint64_t hash = XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), seed);
  return static_cast<std::uint32_t>(hash & (buckets_.size() - 1));
}

BlockId BlockPool::find(BlockId parent, std::span<const TokenId> tokens,
                        std::string_view key) const {
  BlockId id = buckets_[bucket_of(parent, tokens, key)];
  while (id != kNoBlock) {
    const Block& block = at(id);
    if (block.parent == parent && block.key == key && std::ranges::equal(tokens_of(id), tokens)) {
      return id;
    }
    id = block.next_in_bucket;
  }
  return kNoBlock;
}

void BlockPool::push_free(BlockId id) {
  Block& block = at(id);
  block.previous_free = last_free_;
  block.next_free = kNoBlock;
  (last_free_ == kNoBlock ? first_free_ : at(last_free_).next_free) = id;
  last_free_ = id;
  ++num_free_;
}

void BlockPool::unlink_free(BlockId id) {
  const Block& block = at(id);
  (block.previous_free == kNoBlock ? first_free_ : at(block.previous_free).next_free) =
      block.next_free;
  (block.next_free == kNoBlock ? last_free_ : at(block.next_free).previous_free) =
      block.previous_free;
  --num_free_;
}

void BlockPool::evict(BlockId id) {
  Block& block = at(id);
  QUERN_CHECK(block.children == 0, "block {} leaves the cache before its children", id);
  BlockId* link = &buckets_[block.bucket];
  while (*link != id) link = &at(*link).next_in_bucket;
  *link = block.next_in_bucket;
  if (block.parent != kNoBlock) --at(block.parent).children;
  block.cached = false;
  block.parent = kNoBlock;
  block.key.clear();
}

}  // namespace quern::engine
