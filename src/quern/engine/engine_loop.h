// The engine thread: takes requests from a queue, runs steps, delivers outputs.
// Must never hold a lock during a step or a callback, and parks when there is nothing to do.
// Proved by tests/engine/engine_loop_test.cc (with a model that is a hash).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "quern/engine/block_pool.h"
#include "quern/engine/encoder_cache.h"
#include "quern/engine/engine.h"
#include "quern/engine/sampler.h"
#include "quern/engine/scheduler.h"
#include "quern/engine/step_runner.h"
#include "quern/text/tokenizer.h"

namespace quern::engine {

struct EngineLoopOptions {
  SchedulerOptions scheduler;
  int num_kv_blocks = 0;
  int max_model_len = 0;  // at most num_kv_blocks * 128
  bool enable_prefix_caching = true;
  int encoder_cache_tokens = 0;  // rows of image features; the largest image a request may bring
  // Patches that the vision tower takes at once: of an image, or of `segment_steps` temporal
  // patches.
  std::int64_t max_segment_patches = std::numeric_limits<std::int64_t>::max();
  int segment_steps = 1;
  std::uint64_t seed = 0;
  int max_logprobs = 20;
  LogprobsMode logprobs_mode = LogprobsMode::kRawLogprobs;
  bool log_stats = false;
  std::vector<TokenId> eos_token_ids;
};

// Public functions are thread-safe and may be called from on_output, except drain() and the
// destructor. `runner` and `tokenizer` outlive the loop; only the engine thread calls the runner.
class EngineLoop {
 public:
  EngineLoop(const EngineLoopOptions& options, StepRunner& runner, const Tokenizer& tokenizer);
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // These are Engine's functions of the same names.
  void submit(GenerationRequest request);
  void cancel(const std::string& id);
  void drain(double timeout_seconds);
  EngineStats stats() const;
  bool healthy() const;

 private:
  struct Generation;
  struct Command {  // a new generation, or the id of one to cancel
    std::unique_ptr<Generation> start;
    std::string cancel_id;
  };
  struct Delivery {
    Generation* generation = nullptr;
    Output output;
  };

  void check_request(const GenerationRequest& request) const;
  void check_images(const GenerationRequest& request) const;

  // Engine thread.
  void run();
  bool take_commands();
  void start(std::unique_ptr<Generation> generation);
  void step();
  void encode_images(std::span<const ScheduledChunk> scheduled);
  void build_chunks(std::span<const ScheduledChunk> scheduled);
  void add_features(const ScheduledChunk& chunk);
  void sample_token(Generation& generation, std::span<const float> logits);
  void score_prompt(Generation& generation, int first_row, const ScheduledChunk& chunk);
  void end(Generation& generation, FinishReason reason, const std::string& error);
  void end_all(FinishReason reason, const std::string& error);
  void fail(const std::exception& error);
  void count_step(std::span<const ScheduledChunk> scheduled);
  void add_delivery(Generation& generation, Output output);
  void deliver();
  void publish_stats();
  void log_throughput();

  const EngineLoopOptions options_;
  StepRunner& runner_;
  const Tokenizer& tokenizer_;

  // Engine thread only.
  BlockPool pool_;
  EncoderCache images_;
  Scheduler scheduler_;
  Sampler sampler_;
  std::unordered_map<std::string, std::unique_ptr<Generation>> live_;
  std::vector<Command> commands_;
  std::vector<model::SequenceChunk> chunks_;
  std::vector<model::FeatureRows> features_;  // of chunks_, one behind the other
  std::unique_ptr<float[]> logits_;   // [max_num_seqs, vocabulary], touched as far as it is used
  std::vector<float> prompt_logits_;  // [at most kPromptRows, vocabulary]
  std::vector<Delivery> deliveries_;
  EngineStats counters_;
  std::uint64_t num_started_ = 0;
  bool failed_ = false;
  EngineStats logged_;  // counters of the last log line
  std::chrono::steady_clock::time_point logged_at_;

  // Shared, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;      // commands, stop
  std::condition_variable finished_;  // num_pending_ is 0
  std::vector<Command> inbox_;
  std::unordered_set<std::string> live_ids_;  // from submit() until just before the last output
  int num_pending_ = 0;                       // from submit() until after the last output
  EngineStats published_;
  bool draining_ = false;
  bool abort_ = false;
  bool stop_ = false;
  bool healthy_ = true;

  std::thread thread_;  // last: starts when all else is ready
};

}  // namespace quern::engine
