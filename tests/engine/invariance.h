// Runs the same requests through engines with different schedules and compares bit for bit.
// Must never compare with a tolerance.
// Proved by use in batch_invariance_test.cc and slow/large_batch_test.cc.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "quern/engine/engine.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/plan.h"
#include "tests/engine/collector.h"
#include "tests/support/synthetic_checkpoint.h"
#include "tests/support/tiny_model.h"

namespace quern::engine::test {

using quern::test::kTinyModel;

struct Schedule {
  int num_threads = 1;
  int max_num_batched_tokens = 2048;
  int max_num_seqs = 64;
  bool enable_prefix_caching = true;
  bool together = true;  // else one request after the other
};

// `count` prompts of max_prompt tokens and (quadratically) fewer, all with logprobs; odd ones
// sample with a seed. Every fifth begins with the same 130 tokens if it is long enough.
inline std::vector<GenerationRequest> make_requests(int count, int max_prompt, int max_tokens,
                                                    int vocab_size) {
  const auto common = quern::test::synthetic_prompt(130, vocab_size, 1000);
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < count; ++i) {
    const auto n = static_cast<std::size_t>(
        std::max(1, max_prompt * (count - i) * (count - i) / (count * count)));
    GenerationRequest request;
    request.id = std::to_string(i);
    request.prompt = quern::test::synthetic_prompt(static_cast<std::int64_t>(n), vocab_size,
                                                   static_cast<std::uint64_t>(i));
    if (i % 5 == 0 && n > common.size()) std::ranges::copy(common, request.prompt.begin());
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    request.sampling.logprobs = 5;
    if (i % 2 == 1) {
      request.sampling.seed = i;
    } else {
      request.sampling.temperature = 0;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

struct EngineRun {
  std::vector<Generated> results;
  EngineStats stats;
};

inline EngineRun run(EngineOptions options, const Schedule& schedule,
                     std::vector<GenerationRequest> requests) {
  options.num_threads = schedule.num_threads;
  options.max_num_batched_tokens = schedule.max_num_batched_tokens;
  options.max_num_seqs = schedule.max_num_seqs;
  options.enable_prefix_caching = schedule.enable_prefix_caching;
  Collector collector;
  Engine engine(options);
  std::vector<std::string> ids;
  for (GenerationRequest& request : requests) {
    ids.push_back(request.id);
    collector.submit(engine, std::move(request));
    if (!schedule.together) collector.wait(ids.back());
  }
  EngineRun result;
  for (const std::string& id : ids) result.results.push_back(collector.wait(id));
  result.stats = engine.stats();
  return result;
}

inline void expect_identical(const EngineRun& a, const EngineRun& b) {
  ASSERT_EQ(a.results.size(), b.results.size());
  for (std::size_t i = 0; i < a.results.size(); ++i) {
    EXPECT_EQ(a.results[i].tokens, b.results[i].tokens) << "request " << i;
    EXPECT_TRUE(same_result(a.results[i], b.results[i])) << "request " << i;
    EXPECT_EQ(a.results[i].last.finish_reason, FinishReason::kLength) << a.results[i].last.error;
  }
}

// The plain way to run a model: one thread, one request at a time, no reuse.
inline constexpr Schedule kAlone{.num_threads = 1,
                                 .max_num_batched_tokens = 2048,
                                 .max_num_seqs = 64,
                                 .enable_prefix_caching = false,
                                 .together = false};

inline void quantize(const std::filesystem::path& from, const std::filesystem::path& to) {
  QuantizeOptions options;
  options.model_dir = from;
  options.output_dir = to;
  prepare_output_directory(options);
  run_plan(make_plan(options), options);
}

// A synthetic checkpoint that an Engine can open: with the tokenizer of m3-tiny.
inline void write_model(const std::filesystem::path& directory,
                        const quern::test::SyntheticConfig& config) {
  quern::test::write_synthetic_checkpoint(directory, config);
  std::filesystem::copy_file(kTinyModel / "tokenizer.json", directory / "tokenizer.json");
}

// Real hidden size and head size, few layers and experts.
inline quern::test::SyntheticConfig wide_config() {
  quern::test::SyntheticConfig config;
  config.vocab_size = 512;
  config.hidden_size = 6144;
  config.num_hidden_layers = 2;
  config.num_dense_layers = 1;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 4;
  config.head_dim = 128;
  config.rotary_dim = 64;
  config.intermediate_size = 256;
  config.dense_intermediate_size = 256;
  config.num_local_experts = 4;
  config.num_experts_per_tok = 2;
  config.sparse_index_dim = 128;
  config.sparse_topk_blocks = 2;
  config.max_position_embeddings = 1024;
  return config;
}

}  // namespace quern::engine::test
