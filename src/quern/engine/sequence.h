// The tokens of one generation and where their keys and values are.
// Must never know how tokens are chosen or where text goes.
// Proved by tests/engine/scheduler_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/engine/block_pool.h"
#include "quern/engine/encoder_cache.h"

namespace quern::engine {

// tokens[offset, offset + num_tokens) of a sequence are placeholders of rows [first_row, first_row
// + num_tokens) of an image's features, of which there are num_rows.
struct SequenceImage {
  int offset = 0;
  int num_tokens = 0;
  ImageHash hash{};
  int first_row = 0;
  int num_rows = 0;
  bool held = false;  // kept by the scheduler: the sequence has a reference in the encoder cache

  int end() const { return offset + num_tokens; }
};

struct Sequence {
  std::vector<TokenId> tokens;  // prompt, then output
  int num_prompt_tokens = 0;
  std::vector<SequenceImage> images;     // by offset, not overlapping
  std::vector<std::string> prefix_keys;  // see BlockPool; make_prefix_keys()
  bool reads_prefix_cache = true;        // false: every prompt token has to be computed
  std::int64_t priority = 0;             // lower ones go first

  // Kept by the scheduler.
  std::uint64_t arrival = 0;         // equal priorities go by it
  int num_computed = 0;              // tokens whose keys and values are in the cache
  std::vector<BlockId> blocks;       // block table
  int num_full_blocks = 0;           // blocks that were offered to the prefix cache
  int num_cached_prompt_tokens = 0;  // of the first admission
  bool was_admitted = false;

  int num_tokens() const { return static_cast<int>(tokens.size()); }
};

// What the content of each block depends on besides tokens: the cache salt (first block; the others
// stand behind it), and hash and place of each image that overlaps the block.
std::vector<std::string> make_prefix_keys(std::string_view cache_salt,
                                          std::span<const SequenceImage> images);

}  // namespace quern::engine
