// See model_options.h. Names, defaults and texts: vLLM engine/arg_utils.py.
#include "model_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <iterator>

#include "quern/base/error.h"
#include "quern/base/log.h"

namespace quern::cli {
namespace {

constexpr const char* kOneCopy = "one copy of the model; answers do not depend on it";
constexpr const char* kOneKernel = "attention has one implementation per device here";
constexpr const char* kLocal = "models are local directories; nothing is downloaded";

constexpr const char* kAttentionBackends =
    "FLASH_ATTN, TRITON_ATTN, ROCM_ATTN, ROCM_AITER_FA, ROCM_AITER_UNIFIED_ATTN, FLASHINFER, "
    "FLEX_ATTENTION, TREE_ATTN, CPU_ATTN, TORCH_SDPA, FLASHMLA, TRITON_MLA, CUTLASS_MLA, "
    "FLASHINFER_MLA, ROCM_AITER_MLA";

// vLLM's names and choices.
constexpr AcceptedOption kAcceptedByEngine[] = {
    {"--trust-remote-code", false, "no code of a checkpoint is ever run"},
    {"--pipeline-parallel-size", true, kOneCopy},
    {"--data-parallel-size", true, kOneCopy},
    {"--attention-backend", true, kOneKernel, kAttentionBackends},
    {"--mm-encoder-attn-backend", true, kOneKernel, kAttentionBackends},
    {"--mm-processor-cache-type", true, "the cache is in this process", "lru, shm"},
    {"--skip-mm-profiling", false, "there is no profiling run"},
    {"--gpu-memory-utilization", true, "the KV cache has its own size here: --kv-cache-gb"},
    {"--swap-space", true, "what is preempted is computed again"},
    {"--cpu-offload-gb", true, "weights are mapped files"},
    {"--enforce-eager", false, "there are no captured graphs"},
    {"--enable-chunked-prefill", false, "prompts are always processed in chunks"},
    {"--max-num-partial-prefills", true, "no effect on answers"},
    {"--max-long-partial-prefills", true, "no effect on answers"},
    {"--long-prefill-token-threshold", true, "no effect on answers"},
    {"--async-scheduling", false, "no effect on answers"},
    {"--stream-interval", true, "each step of the engine is sent at once"},
    {"--prefix-caching-hash-algo", true, "tokens are compared, not hashes",
     "sha256, sha256_cbor, xxhash, xxhash_cbor"},
    {"--load-format", true, "safetensors, mapped", "auto, safetensors"},
    {"--download-dir", true, kLocal},
    {"--revision", true, kLocal},
    {"--tokenizer-revision", true, kLocal},
    {"--tokenizer-mode", true, "tokenizer.json of the checkpoint", "auto, hf"},
    {"--speculative-config", true, "no speculation; answers do not depend on it"},
    {"--compilation-config", true, "nothing is compiled"},
    {"--skip-tokenizer-init", false, "answers are text", nullptr, true},
    {"--lora-modules", true, "adapters are not applied", nullptr, true},
    {"--enable-lora", false, "adapters are not applied", nullptr, true},
};

std::string lower_with_underscores(std::string text) {
  for (char& c : text)
    c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

kernels::MoeBackend moe_backend(const std::string& given) {
  static constexpr std::string_view kOfVllm[] = {"triton",
                                                 "deep_gemm",
                                                 "deep_gemm_mega_moe",
                                                 "cutlass",
                                                 "flashinfer_trtllm",
                                                 "flashinfer_cutlass",
                                                 "flashinfer_cutedsl",
                                                 "marlin",
                                                 "aiter"};
  const std::string name = lower_with_underscores(given);
  if (name == "emulation") return kernels::MoeBackend::kEmulation;
  if (name == "native" || name == "auto") return kernels::MoeBackend::kNative;
  if (std::find(std::begin(kOfVllm), std::end(kOfVllm), name) == std::end(kOfVllm)) {
    throw UsageError("--moe-backend: unknown '{}' (native, emulation, auto)", given);
  }
  spdlog::info("--moe-backend {}: not on this device, native takes its place", given);
  return kernels::MoeBackend::kNative;
}

engine::LogprobsMode logprobs_mode(const std::string& given) {
  using engine::LogprobsMode;
  constexpr std::pair<std::string_view, LogprobsMode> kModes[] = {
      {"raw_logprobs", LogprobsMode::kRawLogprobs},
      {"processed_logprobs", LogprobsMode::kProcessedLogprobs},
      {"raw_logits", LogprobsMode::kRawLogits},
      {"processed_logits", LogprobsMode::kProcessedLogits}};
  for (const auto& [name, mode] : kModes) {
    if (name == lower_with_underscores(given)) return mode;
  }
  throw UsageError(
      "--logprobs-mode: unknown '{}'. Valid options are: raw_logprobs, processed_logprobs, "
      "raw_logits, processed_logits",
      given);
}

void require_name(const char* option, const std::string& given, const char* known) {
  if (!given.empty() && given != known) {
    throw UsageError("{}: unknown '{}' (known: {})", option, given, known);
  }
}

int count_option(const std::string& text, const char* option, int otherwise) {
  if (text.empty() || text == "auto" || text == "-1") return otherwise;
  const std::int64_t count = parse_count(text, option);
  if (count < 1 || count > INT32_MAX)
    throw UsageError("{}: must be at least 1, got {}", option, text);
  return static_cast<int>(count);
}

}  // namespace

ModelOptions::ModelOptions(CLI::App& app) {
  const auto option = [&app](const char* name, auto& target, const char* help) {
    return app.add_option(both_spellings(name), target, help)->group("Model");
  };
  const auto flag = [&app](const char* name, bool& target, const char* help) {
    return app.add_flag(with_opposite(name), target, help)->group("Model");
  };
  app.add_option("model_dir", model_, "Directory of the checkpoint");
  option("--model", model_option_, "The same as an option");
  option("--served-model-name", served_names_, "Names in the API; answers carry the first")
      ->expected(-1);
  option("--max-model-len", max_model_len_,
         "Longest prompt and output together; 1k = 1000, 1K = 1024");
  option("--max-num-batched-tokens", max_batched_tokens_, "Tokens of one step (2048)");
  option("--max-num-seqs", max_num_seqs_, "Sequences running at once")->check(CLI::PositiveNumber);
  option("--max-queue-len", max_queue_len_, "Waiting generations before 429 is answered")
      ->check(CLI::NonNegativeNumber);
  option("--block-size", block_size_, "Tokens of a KV block: 128");
  option("--num-gpu-blocks-override", num_blocks_, "Number of KV blocks")
      ->check(CLI::PositiveNumber);
  option("--kv-cache-gb", kv_cache_gb_,
         "Memory of the KV cache in GB (10^9 bytes), of each process")
      ->check(CLI::PositiveNumber);
  option("--kv-cache-dtype", kv_cache_dtype_, "auto or bfloat16");
  flag("--enable-prefix-caching", prefix_caching_, "Reuse of common beginnings of prompts (on)");
  option("--seed", seed_, "Seed of sampling for requests without one");
  option("--threads", threads_, "Threads of the model, of each process (one a core)")
      ->check(CLI::PositiveNumber);
  option("--tensor-parallel-size", tensor_parallel_,
         "Processes that share the model (-tp); started here, or by mpirun or srun")
      ->check(CLI::Range(1, 128));
  flag("--enable-expert-parallel", expert_parallel_, "Whole experts per process, not parts of all");
  option("--mm-encoder-tp-mode", encoder_mode_,
         "weights (the vision tower is split) or data (whole images per process)");
  option("--distributed-executor-backend", executor_, "mpi; others are accepted and mean it");
  option("--distributed-timeout-seconds", distributed_timeout_,
         "A process without a sign of life for so long has failed (120)")
      ->check(CLI::Range(1, 86400));
  option("--mpirun-args", mpirun_args_,
         "More words of mpirun, for example \"--hostfile FILE\"; this host comes first");
  option("--dtype", dtype_, "auto or bfloat16");
  option("--moe-backend", moe_backend_,
         "native (exact block sums) or emulation (dequantize, then float products)");
  option("--reasoning-parser", reasoning_parser_, "minimax_m3: separates thinking from the answer");
  option("--tool-call-parser", tool_parser_, "minimax_m3: finds tool calls in the answer");
  flag("--enable-auto-tool-choice", auto_tool_choice_, "Lets the model decide about tool calls");
  flag("--exclude-tools-when-tool-choice-none", exclude_tools_,
       "Tools are not shown to the model when tool_choice is none");
  flag("--stop-in-reasoning", stop_in_reasoning_,
       "Stop strings end the thinking too (vLLM's behaviour of June 2026)");
  flag("--trust-request-chat-template", trust_request_template_,
       "Requests may bring a chat template of their own");
  flag("--return-tokens-as-token-ids", tokens_as_ids_, "Log-probabilities name tokens token_id:N");
  option("--scheduling-policy", scheduling_policy_,
         "fcfs: first come, first served; priority: lower numbers of `priority` first");
  option("--logprobs-mode", logprobs_mode_,
         "raw_logprobs, processed_logprobs, raw_logits or processed_logits");
  option("--quantization", quantization_,
         "Must be the quant_method of config.json, which decides by itself");
  option("--tokenizer", tokenizer_, "Directory of tokenizer and chat template (the model's)");
  option("--hf-overrides", hf_overrides_, "JSON: members of config.json, replaced");
  option("--max-logprobs", max_logprobs_, "Most top_logprobs of a request, -1 = all");
  option("--chat-template", chat_template_, "A file, or the template's text");
  option("--chat-template-content-format", content_format_,
         "How the template takes content: auto (found out from it), string or openai");
  option("--default-chat-template-kwargs", template_kwargs_, "JSON: variables of the template");
  option("--generation-config", generation_config_, "auto, vllm (none) or a directory");
  option("--override-generation-config", override_generation_config_, "JSON: sampling defaults");
  option("--response-role", response_role_, "Role in answers");
  media_ = std::make_unique<MediaArguments>(app);
  flag("--disable-log-stats", disable_log_stats_, "No line of throughput every 10 s");
  accepted_ = std::make_unique<AcceptedOptions>(app, std::begin(kAcceptedByEngine),
                                                std::end(kAcceptedByEngine));
}

engine::ParallelOptions ModelOptions::parallel(const Rank& launched) const {
  if (encoder_mode_ != "weights" && encoder_mode_ != "data") {
    throw UsageError("--mm-encoder-tp-mode: unknown '{}'. Valid options are: weights, data",
                     encoder_mode_);
  }
  static constexpr std::string_view kExecutors[] = {"mpi", "mp", "ray", "uni", "external_launcher"};
  if (std::find(std::begin(kExecutors), std::end(kExecutors), executor_) == std::end(kExecutors)) {
    throw UsageError(
        "--distributed-executor-backend: unknown '{}'. Valid options are: mpi, mp, ray, uni, "
        "external_launcher",
        executor_);
  }
  if (executor_ != "mpi") {
    spdlog::info("--distributed-executor-backend {}: processes talk over MPI here", executor_);
  }
  engine::ParallelOptions options;
  options.launched = launched.world_size > 1;
  options.tensor_parallel_size = tensor_parallel_ > 0 ? tensor_parallel_ : launched.world_size;
  if (options.launched && options.tensor_parallel_size != launched.world_size) {
    throw UsageError("--tensor-parallel-size {}: the launcher has started {} processes",
                     tensor_parallel_, launched.world_size);
  }
  options.enable_expert_parallel = expert_parallel_;
  options.encoder_data_parallel = encoder_mode_ == "data";
  options.timeout_seconds = distributed_timeout_;
  options.mpirun_args = mpirun_args_;
  return options;
}

server::ChatEngineOptions ModelOptions::resolve(const Rank& launched) const {
  accepted_->log();
  const std::string& model = model_.empty() ? model_option_ : model_;
  if (model.empty()) throw UsageError("which model? give the directory of a checkpoint");
  if (!model_.empty() && !model_option_.empty() && model_ != model_option_) {
    throw UsageError("two models are given: '{}' and --model '{}'", model_, model_option_);
  }
  if (block_size_ != 128) {
    throw UsageError("--block-size: MiniMax-M3 selects blocks of 128 tokens, got {}", block_size_);
  }
  if (dtype_ != "auto" && dtype_ != "bfloat16") {
    throw UsageError("--dtype: only auto and bfloat16 are supported, got {}", dtype_);
  }
  if (kv_cache_dtype_ != "auto" && kv_cache_dtype_ != "bfloat16") {
    throw UsageError("--kv-cache-dtype: only auto and bfloat16 are supported, got {}",
                     kv_cache_dtype_);
  }
  require_choice("--scheduling-policy", scheduling_policy_, "fcfs, priority");
  require_choice("--chat-template-content-format", content_format_, "auto, string, openai");
  require_name("--reasoning-parser", reasoning_parser_, "minimax_m3");
  require_name("--tool-call-parser", tool_parser_, "minimax_m3");
  if (auto_tool_choice_ && tool_parser_.empty()) {
    throw UsageError("--enable-auto-tool-choice requires --tool-call-parser");
  }
  server::ChatEngineOptions options;
  options.engine.model_dir = model;
  options.engine.max_model_len = count_option(max_model_len_, "--max-model-len", 0);
  options.engine.max_num_batched_tokens = count_option(
      max_batched_tokens_, "--max-num-batched-tokens", options.engine.max_num_batched_tokens);
  options.engine.max_num_seqs = max_num_seqs_;
  options.engine.num_kv_blocks = num_blocks_;
  options.engine.kv_cache_bytes = static_cast<std::uint64_t>(kv_cache_gb_ * 1e9);
  options.engine.enable_prefix_caching = prefix_caching_;
  options.engine.seed = seed_;
  options.engine.num_threads = threads_;
  options.engine.parallel = parallel(launched);
  options.engine.moe_backend = moe_backend(moe_backend_);
  options.engine.log_stats = !disable_log_stats_;
  options.engine.logprobs_mode = logprobs_mode(logprobs_mode_);
  options.engine.quantization = quantization_;
  options.engine.tokenizer_dir = tokenizer_;
  options.engine.hf_overrides = json_option(hf_overrides_, "--hf-overrides");
  options.served_model_names = served_names_;
  options.chat_template = chat_template_;
  options.generation_config = generation_config_;
  options.override_generation_config =
      json_option(override_generation_config_, "--override-generation-config");
  media_->apply(options);
  options.max_queue_len = max_queue_len_;
  options.chat.max_logprobs = max_logprobs_;
  options.chat.parse_reasoning = !reasoning_parser_.empty();
  options.chat.parse_tools = auto_tool_choice_;
  options.chat.stop_in_reasoning = stop_in_reasoning_;
  options.chat.exclude_tools_when_tool_choice_none = exclude_tools_;
  options.chat.trust_request_chat_template = trust_request_template_;
  options.chat.priority_scheduling = lower_with_underscores(scheduling_policy_) == "priority";
  options.chat.tokens_as_ids = tokens_as_ids_;
  const std::string format = lower_with_underscores(content_format_);
  if (format == "openai") options.chat.content_format = ContentFormat::kOpenAi;
  if (format == "string") options.chat.content_format = ContentFormat::kString;
  options.chat.default_chat_template_kwargs =
      json_option(template_kwargs_, "--default-chat-template-kwargs");
  options.chat.response_role = response_role_;
  return options;
}

server::ChatEngineOptions ModelOptions::from_arguments(const std::string& model,
                                                       const Json& arguments,
                                                       const Rank& launched) {
  CLI::App app("model arguments");
  prepare(app);
  ModelOptions options(app);
  std::vector<std::string> words{model};
  for (const auto& [name, value] : arguments.items()) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '_', '-');
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    words.push_back(value.is_boolean() && text == "false" ? "--no-" + key : "--" + key);
    if (!value.is_boolean()) words.back() += "=" + text;
  }
  std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    throw UsageError("model arguments: {}", error.what());
  }
  refuse_unknown(app);
  return options.resolve(launched);
}

}  // namespace quern::cli
