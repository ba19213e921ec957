// Runs the same requests in one process and in several, and compares bit for bit.
// Must never compare with a tolerance.
// Proved by use in parallel_engine_test.cc and slow/parallel_engines_test.cc.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/image_requests.h"
#include "tests/engine/invariance.h"
#include "tests/support/temp_directory.h"

namespace quern::engine::test {

inline EngineOptions shared(EngineOptions options, int size, bool expert_parallel) {
  options.parallel.tensor_parallel_size = size;
  options.parallel.enable_expert_parallel = expert_parallel;
  options.parallel.program = QUERN_BINARY;
  return options;
}

// 4 KV heads, 4 index heads, 8 experts of intermediate 256; blocks are selected from the third on.
inline quern::test::SyntheticConfig shared_config() {
  quern::test::SyntheticConfig config;
  config.num_hidden_layers = 3;
  config.intermediate_size = 256;
  config.sparse_topk_blocks = 2;
  return config;
}

struct Shares {
  int size;
  bool expert_parallel;
};

// A cache that is too small for all, so that some are preempted; then one by one, so that prefixes
// are found.
inline void check_chunks_prefixes_preemption(const std::filesystem::path& model,
                                             const std::vector<Shares>& rows) {
  const auto requests = [] { return make_requests(16, 600, 6, 500); };
  EngineOptions options;
  options.model_dir = model;
  options.max_model_len = 700;
  options.num_kv_blocks = 200;
  const EngineRun alone = run(options, kAlone, requests());
  const Schedule together{.num_threads = 1, .max_num_batched_tokens = 200, .max_num_seqs = 16};
  const Schedule one_by_one{.num_threads = 1, .together = false};
  for (const Shares& row : rows) {
    SCOPED_TRACE(::testing::Message() << model << " " << row.size << " " << row.expert_parallel);
    const EngineOptions several = shared(options, row.size, row.expert_parallel);
    EngineOptions tight = several;
    tight.num_kv_blocks = 9;
    const EngineRun crowded = run(tight, together, requests());
    expect_identical(alone, crowded);
    EXPECT_GT(crowded.stats.num_preemptions, 0U);
    EXPECT_GT(crowded.stats.shared_steps, 0U);
    const EngineRun cached = run(several, one_by_one, requests());
    expect_identical(alone, cached);
    EXPECT_GT(cached.stats.prefix_cache_hits, 0U);
  }
}

// None to three pictures a request, on m3-tiny.
inline std::vector<GenerationRequest> picture_requests(ImageRequests& make) {
  std::vector<GenerationRequest> all;
  for (int i = 0; i < 8; ++i) {
    GenerationRequest request = all_logits_request(std::to_string(i), 4);
    request.sampling.logprobs = 5;
    make.append_mixture(i, request);
    all.push_back(std::move(request));
  }
  return all;
}

inline void check_pictures(int size, bool data) {
  ImageRequests make;
  EngineOptions options;
  options.model_dir = kTinyModel;
  options.kv_cache_bytes = 64 << 20;
  options.max_logprobs = -1;
  const EngineRun alone = run(options, kAlone, picture_requests(make));
  EngineOptions several = shared(options, size, false);
  several.parallel.encoder_data_parallel = data;
  const Schedule chunks{.num_threads = 1, .max_num_batched_tokens = 37, .max_num_seqs = 8};
  expect_identical(alone, run(several, chunks, picture_requests(make)));
}

}  // namespace quern::engine::test
