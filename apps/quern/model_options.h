// The options of `vllm serve` that decide how a model is loaded and how it answers; shared by
// serve, chat, generate and the in-process evaluation. Must never be read before the command line
// is parsed. Proved by tests/apps/options_test.cc.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "media_arguments.h"
#include "options.h"
#include "quern/base/json.h"
#include "quern/quantize/ranks.h"
#include "quern/server/chat_engine.h"

namespace quern::cli {

// Text as given; resolve() turns it into the typed options.
class ModelOptions {
 public:
  // Adds the options to `app`. The object outlives the parse.
  explicit ModelOptions(CLI::App& app);

  // The same options for a model in this process, by name: {"max_model_len": 4096, ...}. Unknown
  // names are a UsageError.
  static server::ChatEngineOptions from_arguments(const std::string& model, const Json& arguments,
                                                  const Rank& launched = {});

  // Logs what accepted options map to. `launched`: the job of mpirun or srun that this process is
  // rank 0 of. Throws UsageError.
  server::ChatEngineOptions resolve(const Rank& launched = {}) const;

 private:
  engine::ParallelOptions parallel(const Rank& launched) const;

  std::string model_;
  std::string model_option_;
  std::vector<std::string> served_names_;
  std::string max_model_len_;
  std::string max_batched_tokens_;
  int max_num_seqs_ = 256;
  int block_size_ = 128;
  int num_blocks_ = 0;
  double kv_cache_gb_ = 0;
  bool prefix_caching_ = true;
  std::uint64_t seed_ = 0;
  int threads_ = 0;
  int tensor_parallel_ = 0;  // 0: as many as were launched
  bool expert_parallel_ = false;
  std::string encoder_mode_ = "weights";
  std::string executor_ = "mpi";
  int distributed_timeout_ = 120;
  std::string mpirun_args_;
  int max_logprobs_ = 20;
  int max_queue_len_ = 4096;
  std::string dtype_ = "auto";
  std::string kv_cache_dtype_ = "auto";
  std::string moe_backend_ = "auto";
  std::string reasoning_parser_;
  std::string tool_parser_;
  bool auto_tool_choice_ = false;
  bool exclude_tools_ = false;
  bool stop_in_reasoning_ = false;
  bool trust_request_template_ = false;
  bool tokens_as_ids_ = false;
  std::string scheduling_policy_ = "fcfs";
  std::string logprobs_mode_ = "raw_logprobs";
  std::string content_format_ = "auto";
  std::string quantization_;
  std::string tokenizer_;
  std::string hf_overrides_;
  bool disable_log_stats_ = false;
  std::string chat_template_;
  std::string template_kwargs_;
  std::string generation_config_ = "auto";
  std::string override_generation_config_;
  std::string response_role_ = "assistant";
  std::unique_ptr<MediaArguments> media_;
  std::unique_ptr<AcceptedOptions> accepted_;
};

}  // namespace quern::cli
