#include "quern/engine/engine.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/engine/engine_loop.h"
#include "quern/kernels/factory.h"
#include "quern/model/text_model.h"
#include "quern/model/vision_tower.h"

namespace quern::engine {
namespace {

// The share of free memory that the KV cache may take when nothing is said: weights are mapped
// files and want the rest as page cache.
constexpr double kDefaultKvShare = 0.3;

// Bytes that can be allocated without swapping, from /proc/meminfo; 0 when the system does not say.
std::uint64_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  std::uint64_t value = 0;
  while (meminfo >> key >> value) {
    if (key == "MemAvailable:") return value * 1024;
    std::getline(meminfo, unit);
  }
  return 0;
}

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

// The model behind the engine's interface.
class ModelStepRunner final : public StepRunner {
 public:
  // `tower` may be null: no images.
  ModelStepRunner(model::TextModel& model, kernels::KvCache& cache, model::VisionTower* tower)
      : model_(model), cache_(cache), tower_(tower) {}
  int vocab_size() const override { return model_.vocab_size(); }
  std::size_t feature_size() const override {
    return tower_ == nullptr ? 0 : static_cast<std::size_t>(tower_->hidden_size());
  }
  void encode(const vision::ImagePatches& patches, std::span<float> features) override {
    const vision::ImagePatches* one = &patches;
    tower_->encode({&one, 1}, features);
  }
  void run(std::span<const model::SequenceChunk> chunks, std::span<float> logits) override {
    model_.forward(chunks, cache_, logits);
  }
  void logits_of(std::span<const std::int32_t> tokens, std::span<float> logits) override {
    model_.logits(tokens, logits);
  }

 private:
  model::TextModel& model_;
  kernels::KvCache& cache_;
  model::VisionTower* tower_;
};

bool has_vision_tensors(const Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tensors(), [](const auto& tensor) {
    return tensor.name.starts_with("vision_tower.");
  });
}

}  // namespace

// Members in the order of their dependence: the loop goes first, the mapped files last.
struct Engine::Impl {
  explicit Impl(const EngineOptions& engine_options)
      : options(checked(engine_options)),
        checkpoint(Checkpoint::open(options.model_dir)),
        config(parse_model_config(checkpoint.config())),
        generation_config(read_generation_config(options.model_dir)),
        tokenizer(Tokenizer::load(options.model_dir)),
        backend(kernels::make_cpu_backend({options.num_threads, options.moe_backend})),
        model(checkpoint, config, *backend,
              {options.max_num_batched_tokens, options.max_num_seqs}) {
    open_vision();
    size_cache();
    cache = backend->create_kv_cache(model.kv_cache_spec(num_blocks));
    runner = std::make_unique<ModelStepRunner>(model, *cache, tower.get());
    EngineLoopOptions loop_options;
    loop_options.scheduler.max_num_batched_tokens = options.max_num_batched_tokens;
    loop_options.scheduler.max_num_seqs = options.max_num_seqs;
    if (image_config) {
      // vLLM: one image always fits, and a step encodes no more than it computes.
      loop_options.encoder_cache_tokens = static_cast<int>(
          std::max<std::int64_t>(options.max_num_batched_tokens, largest_image_tokens()));
      loop_options.scheduler.max_encoder_tokens = loop_options.encoder_cache_tokens;
      loop_options.scheduler.disable_chunked_mm_input = options.images.disable_chunked_mm_input;
    }
    loop_options.num_kv_blocks = num_blocks;
    loop_options.max_model_len = max_model_len;
    loop_options.enable_prefix_caching = options.enable_prefix_caching;
    loop_options.seed = options.seed;
    loop_options.max_logprobs = options.max_logprobs;
    loop_options.log_stats = options.log_stats;
    loop_options.eos_token_ids = eos_token_ids(config, generation_config);
    loop = std::make_unique<EngineLoop>(loop_options, *runner, tokenizer);
  }

  static const EngineOptions& checked(const EngineOptions& options) {
    if (options.max_num_seqs < 1) {
      throw Error("max_num_seqs must be at least 1, got {}", options.max_num_seqs);
    }
    if (options.max_num_batched_tokens < options.max_num_seqs) {
      throw Error(
          "max_num_batched_tokens ({}) must be greater than or equal to max_num_seqs ({}): each "
          "running sequence decodes a token a step",
          options.max_num_batched_tokens, options.max_num_seqs);
    }
    if (options.max_model_len < 0) {
      throw Error("max_model_len must be positive, got {}", options.max_model_len);
    }
    if (options.num_kv_blocks < 0) {
      throw Error("num_gpu_blocks_override must be positive, got {}", options.num_kv_blocks);
    }
    return options;
  }

  std::int64_t largest_image_tokens() const {
    return std::max(image_config->max_image_tokens(), image_config->max_segment_tokens());
  }

  // The tower, when there is one and it is wanted.
  void open_vision() {
    if (options.images.language_model_only || !config.vision_config ||
        !has_vision_tensors(checkpoint)) {
      return;
    }
    PreprocessorConfig file = read_preprocessor_config(options.model_dir);
    if (options.images.min_pixels) file.min_pixels = *options.images.min_pixels;
    if (options.images.max_pixels) file.max_pixels = *options.images.max_pixels;
    if (file.min_pixels < 1 || file.min_pixels > file.max_pixels) {
      throw Error("mm_processor_kwargs: min_pixels {} and max_pixels {} leave no size",
                  file.min_pixels, file.max_pixels);
    }
    const TokenCompressionConfig& tower_sizes = config.vision_config->img_token_compression_config;
    if (file.patch_size != config.vision_config->patch_size ||
        file.merge_size != tower_sizes.spatial_merge_size ||
        file.temporal_patch_size != tower_sizes.temporal_patch_size) {
      throw Error(
          "preprocessor_config.json cuts patches of {} x {} pixels, {} frames, merged {} x {}; "
          "vision_config in config.json expects {} x {}, {}, {} x {}",
          file.patch_size, file.patch_size, file.temporal_patch_size, file.merge_size,
          file.merge_size, config.vision_config->patch_size, config.vision_config->patch_size,
          tower_sizes.temporal_patch_size, tower_sizes.spatial_merge_size,
          tower_sizes.spatial_merge_size);
    }
    vision::VisionPreprocessConfig found = vision::make_preprocess_config(file);
    found.decode.background = options.images.rgba_background_color;
    if (options.images.max_pixels) found.max_frame_pixels = *options.images.max_pixels;
    if (found.min_pixels > found.max_frame_pixels) {
      throw Error(
          "mm_processor_kwargs: min_pixels {} is more than a frame of a video may have ({})",
          found.min_pixels, found.max_frame_pixels);
    }
    found.video_fps = options.images.video_fps;
    found.segment_steps = static_cast<int>(config.vision_config->vision_segment_max_frames);
    model::VisionLimits limits;
    limits.max_patches = std::max(found.max_image_patches(), found.max_segment_patches());
    tower = std::make_unique<model::VisionTower>(checkpoint, config, *backend, limits);
    image_config = found;
  }

  // Sets num_blocks and max_model_len so that one sequence of max_model_len always fits.
  void size_cache() {
    const std::int64_t model_limit = config.text_config.max_position_embeddings;
    if (options.max_model_len > model_limit) {
      throw Error(
          "max_model_len {} is larger than the model's max_position_embeddings of {}: positions "
          "beyond it were never trained",
          options.max_model_len, model_limit);
    }
    std::int64_t wanted = options.max_model_len > 0 ? options.max_model_len : model_limit;
    const std::int64_t block_bytes = backend->kv_block_bytes(model.kv_cache_spec(1));
    std::int64_t blocks = options.num_kv_blocks;
    if (blocks == 0) {
      const double budget = options.kv_cache_bytes > 0
                                ? static_cast<double>(options.kv_cache_bytes)
                                : kDefaultKvShare * static_cast<double>(available_memory_bytes());
      const std::int64_t useful =
          blocks_for(static_cast<int>(wanted)) * std::int64_t{options.max_num_seqs};
      blocks =
          std::min(useful, static_cast<std::int64_t>(budget / static_cast<double>(block_bytes)));
    }
    const std::int64_t fits =
        std::min<std::int64_t>(blocks * kernels::kBlockTokens, std::numeric_limits<int>::max());
    if (fits == 0) {
      throw Error("the KV cache has no room for a single block of {} bytes; raise kv_cache_bytes",
                  block_bytes);
    }
    if (wanted > fits) {
      if (options.max_model_len > 0) {
        throw Error(
            "To serve at least one request with the models's max seq len ({}), {} of KV cache are "
            "needed, which is larger than the available {}. The estimated maximum model length is "
            "{}. Raise the size of the KV cache or lower max_model_len.",
            wanted,
            bytes_text(static_cast<double>(blocks_for(static_cast<int>(wanted)) * block_bytes)),
            bytes_text(static_cast<double>(blocks * block_bytes)), fits);
      }
      spdlog::info("max_model_len reduced from {} to {}: what the KV cache of {} holds", wanted,
                   fits, bytes_text(static_cast<double>(blocks * block_bytes)));
      wanted = fits;
    }
    num_blocks = static_cast<int>(blocks);
    max_model_len = static_cast<int>(wanted);
    spdlog::info("KV cache: {} blocks of {} tokens, {}", num_blocks, kernels::kBlockTokens,
                 bytes_text(static_cast<double>(blocks * block_bytes)));
  }

  EngineOptions options;
  Checkpoint checkpoint;
  ModelConfig config;
  GenerationConfig generation_config;
  Tokenizer tokenizer;
  std::unique_ptr<kernels::Backend> backend;
  model::TextModel model;
  std::unique_ptr<model::VisionTower> tower;
  std::optional<vision::VisionPreprocessConfig> image_config;
  int num_blocks = 0;
  int max_model_len = 0;
  std::unique_ptr<kernels::KvCache> cache;
  std::unique_ptr<ModelStepRunner> runner;
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
void Engine::submit(GenerationRequest request) { impl_->loop->submit(std::move(request)); }
void Engine::cancel(const std::string& id) { impl_->loop->cancel(id); }
void Engine::drain(double timeout_seconds) { impl_->loop->drain(timeout_seconds); }
EngineStats Engine::stats() const { return impl_->loop->stats(); }
bool Engine::healthy() const { return impl_->loop->healthy(); }

}  // namespace quern::engine
