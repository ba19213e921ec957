// The blocks of the paged KV cache: who holds them, which are free, which can be found by content.
// Must never hand out a block that somebody reads, or a cached block for other tokens than its own.
// Proved by tests/engine/block_pool_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/kernels/backend.h"

namespace quern::engine {

using BlockId = std::int32_t;
using TokenId = std::int32_t;

inline constexpr int kBlockTokens = kernels::kBlockTokens;
inline constexpr BlockId kNoBlock = -1;

// Blocks needed for `tokens` positions, of which a model may claim INT32_MAX.
constexpr int blocks_for(int tokens) {
  return static_cast<int>((std::int64_t{tokens} + kBlockTokens - 1) / kBlockTokens);
}

// Reference counts, the free list and the prefix cache. Not thread-safe.
//
// Free list: least recently freed first; a table is returned tail first, so that the tail of a
// sequence is evicted before its head (vLLM v1/core/block_pool.py). A cached block that is free
// stays findable until it is taken.
//
// Prefix cache: a tree of full blocks. The key of a block is (its parent block, its 128 token ids,
// a key for what else decides its content: cache salt, images); xxh3 only finds candidates, the key
// itself is compared, so a hash collision cannot hand out another prompt's content. This is
// stronger than a chained hash: by induction from the root a hit means that all tokens before it
// are equal. It rests on one invariant: a cached block leaves the cache before its parent does. It
// holds because whoever holds a block holds its parent, and returns the block first.
class BlockPool {
 public:
  BlockPool(int num_blocks, bool enable_prefix_caching);

  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int num_free() const { return num_free_; }
  bool prefix_caching() const { return caching_; }

  // Appends `count` blocks to `table`, each with one reference, or does nothing and returns false.
  bool allocate(int count, std::vector<BlockId>& table);
  // Gives back one reference of each block of a sequence, last block first.
  void release(std::span<const BlockId> table);

  // Appends the longest cached prefix of `tokens` to `table`, without taking references: full
  // blocks only, and never the last token, which must be computed to get logits. `keys`: of the
  // first blocks; the others have none.
  void find_prefix(std::span<const TokenId> tokens, std::span<const std::string> keys,
                   std::vector<BlockId>& table) const;
  // How many of the blocks are free at the moment: taking them leaves that many fewer to allocate.
  int count_free(std::span<const BlockId> table) const;
  // Adds one reference to each of the blocks that find_prefix() returned.
  void acquire(std::span<const BlockId> table);

  // Makes the full block `block`, held by the caller, findable behind `parent` (kNoBlock: first of
  // its sequence). Returns the block to go on with: the argument, or the equal block
  // that is already cached, whose reference replaces the argument's (equal tokens behind equal
  // prefixes have bit-identical keys and values).
  BlockId cache(BlockId block, BlockId parent, std::span<const TokenId> tokens,
                std::string_view key);

 private:
  struct Block {
    int references = 0;
    BlockId previous_free = kNoBlock;  // neighbours in the free list
    BlockId next_free = kNoBlock;
    bool cached = false;
    BlockId parent = kNoBlock;
    int children = 0;  // cached blocks whose parent this is
    std::uint32_t bucket = 0;
    BlockId next_in_bucket = kNoBlock;
    std::string key;
  };

  Block& at(BlockId id) { return blocks_[static_cast<std::size_t>(id)]; }
  const Block& at(BlockId id) const { return blocks_[static_cast<std::size_t>(id)]; }
  std::span<TokenId> tokens_of(BlockId id);
  std::span<const TokenId> tokens_of(BlockId id) const;
  std::uint32_t bucket_of(BlockId parent, std::span<const TokenId> tokens,
                          std::string_view key) const;
  BlockId find(BlockId parent, std::span<const TokenId> tokens, std::string_view key) const;
  void push_free(BlockId id);
  void unlink_free(BlockId id);
  void evict(BlockId id);
  void release_one(BlockId id);

  bool caching_;
  std::uint64_t hash_seed_;  // random: clients cannot aim at one bucket
  std::vector<Block> blocks_;
  std::vector<TokenId> tokens_;   // [blocks, 128], of cached blocks
  std::vector<BlockId> buckets_;  // a power of two; first block of each chain
  BlockId first_free_ = kNoBlock;
  BlockId last_free_ = kNoBlock;
  int num_free_ = 0;
};

}  // namespace quern::engine
