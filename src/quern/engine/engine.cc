#include "quern/engine/engine.h"

#include <algorithm>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/engine/engine_loop.h"
#include "quern/engine/model_host.h"
#include "quern/engine/remote_runner.h"

namespace quern::engine {
namespace {

std::vector<TokenId> eos_token_ids(const ModelConfig& config, const GenerationConfig& generation) {
  const std::vector<std::int64_t>& ids =
      generation.eos_token_id.empty() ? config.text_config.eos_token_id : generation.eos_token_id;
  std::vector<TokenId> result;
  for (const std::int64_t id : ids) {
    if (id < 0 || id >= config.text_config.vocab_size) {
      throw Error("eos_token_id {} is outside the vocabulary of {}", id,
                  config.text_config.vocab_size);
    }
    result.push_back(static_cast<TokenId>(id));
  }
  return result;
}

// `overrides` (an object or null) replaces members of the configuration, those of nested objects
// one by one.
void merge_overrides(Json& config, const Json& overrides) {
  if (!overrides.is_object()) return;
  for (const auto& [key, value] : overrides.items()) {
    Json& member = config[key];
    if (member.is_object() && value.is_object()) {
      merge_overrides(member, value);
    } else {
      member = value;
    }
  }
}

ModelConfig read_config(const Checkpoint& checkpoint, const EngineOptions& options) {
  Json config = checkpoint.config();
  const auto found = config.find("quantization_config");
  const Json method_json =
      found != config.end() && found->is_object() ? found->value("quant_method", Json()) : Json();
  const std::string method = method_json.is_string() ? method_json.get<std::string>() : "none";
  if (!options.quantization.empty() && options.quantization != method) {
    throw Error(
        "Quantization method specified in the model config ({}) does not match the quantization "
        "method specified in the `quantization` argument ({}).",
        method, options.quantization);
  }
  if (!options.hf_overrides.is_null() && options.parallel.tensor_parallel_size > 1) {
    throw Error("hf_overrides: the ranks of tensor_parallel_size {} read config.json as it is",
                options.parallel.tensor_parallel_size);
  }
  merge_overrides(config, options.hf_overrides);
  return options.hf_overrides.is_null()
             ? parse_model_config(config)
             : with_context("--hf-overrides", [&] { return parse_model_config(config); });
}

}  // namespace

// Members in the order of their dependence: the loop goes first, the mapped files last.
struct Engine::Impl {
  explicit Impl(const EngineOptions& engine_options)
      : options(completed(engine_options)),
        checkpoint(Checkpoint::open(options.model_dir)),
        config(read_config(checkpoint, options)),
        generation_config(read_generation_config(options.model_dir)),
        tokenizer(Tokenizer::load(options.tokenizer_dir)),
        image_config(read_image_config(options, checkpoint, config)) {
    EngineLoopOptions loop_options;
    loop_options.eos_token_ids = eos_token_ids(config, generation_config);
    StepRunner& runner = open_model();
    loop_options.scheduler.max_num_batched_tokens = options.max_num_batched_tokens;
    loop_options.scheduler.max_num_seqs = options.max_num_seqs;
    if (image_config) {
      // vLLM: one image always fits, and a step encodes no more than it computes.
      loop_options.encoder_cache_tokens = static_cast<int>(
          std::max<std::int64_t>(options.max_num_batched_tokens, largest_image_tokens()));
      loop_options.scheduler.max_encoder_tokens = loop_options.encoder_cache_tokens;
      // The tower's limit (ModelHost).
      loop_options.max_segment_patches =
          std::max(image_config->max_image_patches(), image_config->max_segment_patches());
      loop_options.segment_steps = image_config->segment_steps;
      loop_options.scheduler.disable_chunked_mm_input = options.images.disable_chunked_mm_input;
    }
    loop_options.num_kv_blocks = num_blocks;
    loop_options.max_model_len = max_model_len;
    loop_options.enable_prefix_caching = options.enable_prefix_caching;
    loop_options.seed = options.seed;
    loop_options.max_logprobs = options.max_logprobs;
    loop_options.logprobs_mode = options.logprobs_mode;
    loop_options.log_stats = options.log_stats;
    loop = std::make_unique<EngineLoop>(loop_options, runner, tokenizer);
  }

  static EngineOptions completed(EngineOptions options) {
    check_options(options);
    if (options.tokenizer_dir.empty()) options.tokenizer_dir = options.model_dir;
    return options;
  }

  // The model in this process, or in several others.
  StepRunner& open_model() {
    if (options.parallel.tensor_parallel_size > 1) {
      ranks = std::make_unique<RemoteRunner>(options, config, image_config.has_value());
      num_blocks = ranks->num_blocks();
      max_model_len = ranks->max_model_len();
      return *ranks;
    }
    host = std::make_unique<ModelHost>(options, checkpoint, config);
    host->open_cache(host->possible_blocks());
    num_blocks = host->num_blocks();
    max_model_len = host->max_model_len();
    return host->runner();
  }

  std::int64_t largest_image_tokens() const {
    return std::max(image_config->max_image_tokens(), image_config->max_segment_tokens());
  }

  bool healthy() const { return loop->healthy() && (ranks == nullptr || ranks->alive()); }

  EngineOptions options;
  Checkpoint checkpoint;
  ModelConfig config;
  GenerationConfig generation_config;
  Tokenizer tokenizer;
  std::optional<vision::VisionPreprocessConfig> image_config;
  std::unique_ptr<ModelHost> host;  // one of the two
  std::unique_ptr<RemoteRunner> ranks;
  int num_blocks = 0;
  int max_model_len = 0;
  std::unique_ptr<EngineLoop> loop;
};

Engine::Engine(const EngineOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Engine::~Engine() = default;

const ModelConfig& Engine::config() const { return impl_->config; }
const GenerationConfig& Engine::generation_config() const { return impl_->generation_config; }
const Tokenizer& Engine::tokenizer() const { return impl_->tokenizer; }
const Checkpoint& Engine::checkpoint() const { return impl_->checkpoint; }
int Engine::max_model_len() const { return impl_->max_model_len; }
int Engine::num_kv_blocks() const { return impl_->num_blocks; }
const vision::VisionPreprocessConfig* Engine::image_config() const {
  return impl_->image_config ? &*impl_->image_config : nullptr;
}
const EngineOptions& Engine::options() const { return impl_->options; }
void Engine::submit(GenerationRequest request) {
  if (!impl_->healthy()) throw Error("the engine has failed; see the log");
  impl_->loop->submit(std::move(request));
}
void Engine::cancel(const std::string& id) { impl_->loop->cancel(id); }
void Engine::drain(double timeout_seconds) { impl_->loop->drain(timeout_seconds); }
EngineStats Engine::stats() const { return impl_->loop->stats(); }
bool Engine::healthy() const { return impl_->healthy(); }

}  // namespace quern::engine
