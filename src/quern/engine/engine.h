// The engine: continuous batching of generations over one model, in this process or in several.
// Must never let one request's failure, size or cancellation touch another's result.
// Proved by tests/engine/engine_loop_test.cc and tests/engine/batch_invariance_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "quern/base/json.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/engine/request.h"
#include "quern/kernels/backend.h"
#include "quern/text/tokenizer.h"
#include "quern/vision/preprocess.h"

namespace quern::engine {

// What to do with images; nothing is given when the checkpoint has no vision tower.
struct ImageOptions {
  bool language_model_only = false;  // no tower is loaded, images are refused
  // --mm-processor-kwargs: in place of the checkpoint's preprocessor_config.json.
  std::optional<std::int64_t> min_pixels;
  std::optional<std::int64_t> max_pixels;
  // --media-io-kwargs: what lies under a picture with an alpha channel; vLLM's is white.
  std::array<std::uint8_t, 3> rgba_background_color{255, 255, 255};
  double video_fps = 1;  // --media-io-kwargs: frames of a second that are looked at
  bool disable_chunked_mm_input = false;
};

// How several processes share the model.
struct ParallelOptions {
  int tensor_parallel_size = 1;
  bool enable_expert_parallel = false;
  bool encoder_data_parallel = false;  // --mm-encoder-tp-mode data
  int timeout_seconds = 120;           // without a sign of life of a rank
  std::string mpirun_args;             // more words of mpirun's command line
  bool launched = false;  // this process is rank 0's of a job that mpirun or srun has started
  std::filesystem::path program;  // with the command `rank`; empty = this program
};

// Names and defaults of `vllm serve` where it has the option.
struct EngineOptions {
  std::filesystem::path model_dir;
  int max_model_len = 0;  // 0 = from config.json, reduced to what the KV cache can hold
  int max_num_batched_tokens = 2048;
  int max_num_seqs = 256;
  int num_kv_blocks = 0;             // --num-gpu-blocks-override; 0 = from kv_cache_bytes
  std::uint64_t kv_cache_bytes = 0;  // of a rank; 0 = a share of the memory free at start-up
  bool enable_prefix_caching = true;
  std::uint64_t seed = 0;
  int num_threads = 0;  // of a rank; 0 = one per core
  kernels::MoeBackend moe_backend = kernels::MoeBackend::kNative;
  ImageOptions images;
  int max_logprobs = 20;  // upper bound of SamplingParams::logprobs; -1 = none
  LogprobsMode logprobs_mode = LogprobsMode::kRawLogprobs;
  std::filesystem::path tokenizer_dir;  // empty = model_dir
  std::string quantization;             // what config.json has to say; empty = anything
  Json hf_overrides;                    // object merged into config.json, or null
  bool log_stats = false;               // a line with throughput every 10 s while there is work
  ParallelOptions parallel;
};

// A snapshot of counters and gauges; names follow vLLM's metrics.
struct EngineStats {
  int num_requests_running = 0;
  int num_requests_waiting = 0;
  double kv_cache_usage = 0;  // 0..1
  std::uint64_t num_preemptions = 0;
  std::uint64_t prompt_tokens = 0;  // computed or cached
  std::uint64_t generation_tokens = 0;
  std::uint64_t prefix_cache_queries = 0;  // tokens
  std::uint64_t prefix_cache_hits = 0;     // tokens
  std::uint64_t mm_cache_queries = 0;      // images
  std::uint64_t mm_cache_hits = 0;         // images
  std::uint64_t images_encoded = 0;
  std::uint64_t steps = 0;
  std::uint64_t shared_steps = 0;  // steps that carried more than one request
  std::uint64_t max_requests_in_step = 0;
  std::uint64_t requests_finished = 0;
  // Steps by the tokens that they computed: up to each of kStepTokenBounds, and more than all.
  static constexpr std::array<int, 13> kStepTokenBounds{1,   8,    16,   32,   64,   128,  256,
                                                        512, 1024, 2048, 4096, 8192, 16384};
  std::array<std::uint64_t, kStepTokenBounds.size() + 1> steps_by_tokens{};
  std::uint64_t step_tokens = 0;  // of all steps together
};

// Owns the model, the KV cache and the engine thread. With several ranks the model is in processes
// of their own, which the engine starts and outlives. All public functions are thread-safe.
class Engine {
 public:
  // Loads and binds everything; throws Error before any thread is started.
  explicit Engine(const EngineOptions& options);
  ~Engine();  // aborts what is running

  const ModelConfig& config() const;
  const GenerationConfig& generation_config() const;
  const Tokenizer& tokenizer() const;
  const Checkpoint& checkpoint() const;
  int max_model_len() const;
  int num_kv_blocks() const;
  // How pictures become patches; nullptr when the engine takes none.
  const vision::VisionPreprocessConfig* image_config() const;
  const EngineOptions& options() const;

  // Queues the request; throws InvalidRequest when it can never run. on_output is called from the
  // engine thread.
  void submit(GenerationRequest request);
  // Ends it at the next step with FinishReason::kAbort; unknown ids are ignored.
  void cancel(const std::string& id);
  // No new requests; returns when the running ones have finished or `timeout_seconds` passed (then
  // they abort).
  void drain(double timeout_seconds);

  EngineStats stats() const;
  // False after an internal failure of the engine thread or a rank; pending requests got kError.
  bool healthy() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::engine
