// See model_host.h.
#include "quern/engine/model_host.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/engine/available_memory.h"
#include "quern/engine/block_pool.h"
#include "quern/kernels/factory.h"
#include "quern/model/text_model.h"

namespace quern::engine {
namespace {

// The share of free memory that the KV cache may take when nothing is said: weights are mapped
// files and want the rest as page cache.
constexpr double kDefaultKvShare = 0.3;

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
  void encode(std::span<const vision::ImagePatches* const> images,
              std::span<float> features) override {
    tower_->encode(images, features);
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

}  // namespace

void check_options(const EngineOptions& options) {
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
}

std::optional<vision::VisionPreprocessConfig> read_image_config(const EngineOptions& options,
                                                                const Checkpoint& checkpoint,
                                                                const ModelConfig& config) {
  if (options.images.language_model_only || !model::VisionTower::present(checkpoint, config))
    return std::nullopt;
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
    throw Error("mm_processor_kwargs: min_pixels {} is more than a frame of a video may have ({})",
                found.min_pixels, found.max_frame_pixels);
  }
  found.video_fps = options.images.video_fps;
  found.segment_steps = static_cast<int>(config.vision_config->vision_segment_max_frames);
  return found;
}

ModelHost::ModelHost(const EngineOptions& options, const Checkpoint& checkpoint,
                     const ModelConfig& config, const model::Sharding& sharding,
                     Communicator* communicator, int ranks_on_host)
    : options_(options),
      config_(config),
      backend_(kernels::make_cpu_backend({.num_threads = options.num_threads,
                                          .moe_backend = options.moe_backend,
                                          .communicator = communicator})),
      model_(checkpoint, config, *backend_, {options.max_num_batched_tokens, options.max_num_seqs},
             sharding) {
  if (const auto images = read_image_config(options, checkpoint, config)) {
    model::VisionLimits limits;
    limits.max_patches = std::max(images->max_image_patches(), images->max_segment_patches());
    tower_ = std::make_unique<model::VisionTower>(checkpoint, config, *backend_, limits, sharding,
                                                  communicator);
  }
  possible_blocks_ = count_possible_blocks(ranks_on_host);
}

std::int64_t ModelHost::wanted_len() const {
  const std::int64_t model_limit = config_.text_config.max_position_embeddings;
  if (options_.max_model_len > model_limit) {
    throw Error(
        "max_model_len {} is larger than the model's max_position_embeddings of {}: positions "
        "beyond it were never trained",
        options_.max_model_len, model_limit);
  }
  return options_.max_model_len > 0 ? options_.max_model_len : model_limit;
}

std::int64_t ModelHost::block_bytes() const {
  return backend_->kv_block_bytes(model_.kv_cache_spec(1));
}

int ModelHost::count_possible_blocks(int ranks_on_host) const {
  if (options_.num_kv_blocks > 0) return options_.num_kv_blocks;
  const double budget =
      options_.kv_cache_bytes > 0
          ? static_cast<double>(options_.kv_cache_bytes)
          : kDefaultKvShare * static_cast<double>(available_memory_bytes()) / ranks_on_host;
  const std::int64_t useful =
      blocks_for(static_cast<int>(wanted_len())) * std::int64_t{options_.max_num_seqs};
  const auto blocks =
      std::min(useful, static_cast<std::int64_t>(budget / static_cast<double>(block_bytes())));
  return static_cast<int>(
      std::min<std::int64_t>(blocks, std::numeric_limits<int>::max() / kernels::kBlockTokens));
}

void ModelHost::open_cache(int num_blocks) {
  const auto size_text = [&](std::int64_t blocks) {
    return bytes_text(static_cast<double>(blocks * block_bytes()));
  };
  if (num_blocks <= 0) {
    throw Error("the KV cache has no room for a single block of {} bytes; raise kv_cache_bytes",
                block_bytes());
  }
  std::int64_t wanted = wanted_len();
  const std::int64_t fits = std::min<std::int64_t>(std::int64_t{num_blocks} * kernels::kBlockTokens,
                                                   std::numeric_limits<int>::max());
  if (wanted > fits) {
    if (options_.max_model_len > 0) {
      throw Error(
          "To serve at least one request with the models's max seq len ({}), {} of KV cache are "
          "needed, which is larger than the available {}. The estimated maximum model length is "
          "{}. Raise the size of the KV cache or lower max_model_len.",
          wanted, size_text(blocks_for(static_cast<int>(wanted))), size_text(num_blocks), fits);
    }
    spdlog::info("max_model_len reduced from {} to {}: what the KV cache of {} holds", wanted, fits,
                 size_text(num_blocks));
    wanted = fits;
  }
  num_blocks_ = num_blocks;
  max_model_len_ = static_cast<int>(wanted);
  spdlog::info("KV cache: {} blocks of {} tokens, {}", num_blocks_, kernels::kBlockTokens,
               size_text(num_blocks));
  cache_ = backend_->create_kv_cache(model_.kv_cache_spec(num_blocks_));
  runner_ = std::make_unique<ModelStepRunner>(model_, *cache_, tower_.get());
}

}  // namespace quern::engine
