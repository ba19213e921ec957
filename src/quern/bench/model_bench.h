// Measures steps of a checkpoint's model as llama-bench does: a prompt processed, tokens decoded
// behind a context, each beside the bound of this machine. Must never time what is not part of a
// step, nor compare with a bound that was not measured in the same moments.
// Proved by tests/bench/model_bench_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "quern/bench/step_cost.h"
#include "quern/bench/timed_backend.h"
#include "quern/checkpoint/model_config.h"

namespace quern::bench {

struct ModelBenchOptions {
  std::filesystem::path model_dir;
  int threads = 0;             // 0 = one per core
  int max_step_tokens = 2048;  // a longer prompt takes several steps
  int max_batch_size = 1;
  int repetitions = 5;
  bool warmup = true;  // a step before the first repetition, which is not counted
  bool profile = false;
  Clock clock = Clock::kWall;
  // Of each probe of the machine's rates, one before and after each repetition: long enough for a
  // stable figure, short beside a step of a real model.
  double probe_seconds = 0.1;
  kernels::MoeBackend moe_backend = kernels::MoeBackend::kNative;
  std::uint64_t seed = 1;
};

// One row. `batch_size` sequences at once, each with `context` tokens of random keys and values
// behind it: a prompt of `prompt_tokens` is processed (decode_tokens 0), or `decode_tokens` steps
// follow that add a token to each sequence.
struct BenchTest {
  int prompt_tokens = 0;
  int decode_tokens = 0;
  int context = 0;
  int batch_size = 1;

  std::string name() const;  // pp512, tg32 @ d4096 b8
  int tokens() const { return (prompt_tokens + decode_tokens) * batch_size; }
};

struct OperationProfile {
  OperationTime time;  // of all repetitions
  double seconds = 0;  // of one repetition
  double bound_seconds = 0;
  Cost cost;  // of one repetition
};

struct BenchResult {
  BenchTest test;
  std::vector<double> seconds;  // of each repetition
  std::vector<double> bounds;   // bound_seconds() with the rates around each repetition
  Cost cost;                    // of one repetition
  int steps = 0;                // of one repetition
  Clock clock = Clock::kWall;
  MachineRates rates;                                    // medians
  std::array<OperationProfile, kNumOperations> profile;  // with ModelBenchOptions::profile

  double tokens_per_second() const;  // median
  double spread() const;             // half of what lies between slowest and fastest
  double bound_tokens_per_second() const;
  double share_of_bound() const;  // median of the repetitions'
};

double median(std::vector<double> values);

// What the table says of the model.
struct ModelSummary {
  std::string type;  // minimax_m3_vl MXFP4
  std::uint64_t bytes = 0;
  std::uint64_t parameters = 0;
};

class ModelBench {
 public:
  // Opens the checkpoint and reads all of it once where it fits into memory.
  explicit ModelBench(const ModelBenchOptions& options);
  ~ModelBench();

  const ModelSummary& summary() const;
  int threads() const;

  // Throws an Error for a test that the model's positions or this machine's memory do not hold.
  void check(const BenchTest& test) const;
  BenchResult run(const BenchTest& test);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::bench
