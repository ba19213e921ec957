// The tokens of one generation and where their keys and values are.
// Must never know how tokens are chosen or where text goes.
// Proved by tests/engine/scheduler_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/engine/block_pool.h"

namespace quern::engine {

struct Sequence {
  std::vector<TokenId> tokens;  // prompt, then output
  int num_prompt_tokens = 0;
  std::string cache_salt;

  // Kept by the scheduler.
  int num_computed = 0;              // tokens whose keys and values are in the cache
  std::vector<BlockId> blocks;       // block table
  int num_full_blocks = 0;           // blocks that were offered to the prefix cache
  int num_cached_prompt_tokens = 0;  // of the first admission
  bool was_admitted = false;

  int num_tokens() const { return static_cast<int>(tokens.size()); }
};

}  // namespace quern::engine
