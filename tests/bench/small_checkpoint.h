// A random checkpoint of a few hundred kB: every kind of layer, MXFP4 experts.
// Must never depend on the machine.
#pragma once

#include "quern/bench/random_checkpoint.h"

namespace quern::bench {

inline RandomCheckpointOptions small_options() {
  RandomCheckpointOptions options;
  options.dense_layers = 1;
  options.sparse_layers = 1;
  options.num_local_experts = 4;
  options.num_experts_per_tok = 2;
  options.vocab_size = 512;
  options.hidden_size = 64;
  options.num_attention_heads = 2;
  options.num_key_value_heads = 1;
  options.head_dim = 32;
  options.rotary_dim = 16;
  options.intermediate_size = 32;
  options.dense_intermediate_size = 64;
  options.sparse_index_dim = 32;
  options.sparse_topk_blocks = 2;
  options.max_position_embeddings = 4096;
  return options;
}

}  // namespace quern::bench
