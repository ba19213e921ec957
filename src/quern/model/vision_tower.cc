// See vision_tower.h. The order of operations is vLLM's models/minimax_m3 vision tower.
#include "quern/model/vision_tower.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "quern/base/error.h"
#include "quern/checkpoint/validate.h"
#include "quern/kernels/vision_backend.h"
#include "quern/model/binder.h"

namespace quern::model {
namespace {

using kernels::Activation;
using kernels::Affine;
using kernels::LayerNormWeights;
using kernels::Matrix;
using vision::ImagePatches;

// Binds a module's weight and bias.
class VisionBinder {
 public:
  VisionBinder(const Checkpoint& checkpoint, const ModelConfig& config, kernels::Backend& backend,
               const Sharding& sharding)
      : config_(config), binder_(checkpoint, config, backend, sharding) {}

  LayerNormWeights layer_norm(const std::string& name) const {
    return {binder_.tensor(name + ".weight"), binder_.tensor(name + ".bias")};
  }

  Affine affine(const std::string& name, bool bias = true) const {
    if (config_.quantization_config && config_.quantization_config->scheme_for(name)) {
      throw Error("module '{}' is quantized: a vision tower runs in BF16 (exclude it)", name);
    }
    return {binder_.tensor(name + ".weight"), bias ? binder_.tensor(name + ".bias") : nullptr};
  }

 private:
  const ModelConfig& config_;
  Binder binder_;
};

struct VisionLayer {
  LayerNormWeights norm1, norm2;
  Affine q_proj, k_proj, v_proj, out_proj, fc1, fc2;
};

VisionLayer bind_layer(const VisionBinder& binder, const std::string& prefix) {
  VisionLayer layer;
  layer.norm1 = binder.layer_norm(prefix + "layer_norm1");
  layer.norm2 = binder.layer_norm(prefix + "layer_norm2");
  layer.q_proj = binder.affine(prefix + "self_attn.q_proj");
  layer.k_proj = binder.affine(prefix + "self_attn.k_proj");
  layer.v_proj = binder.affine(prefix + "self_attn.v_proj");
  layer.out_proj = binder.affine(prefix + "self_attn.out_proj");
  layer.fc1 = binder.affine(prefix + "mlp.fc1");
  layer.fc2 = binder.affine(prefix + "mlp.fc2");
  return layer;
}

// Temporal steps [begin, end) of an image: one attention segment.
struct Segment {
  const ImagePatches* image;
  int begin, end;

  std::int64_t plane() const { return std::int64_t{image->grid_h} * image->grid_w; }
  std::int64_t patches() const { return (end - begin) * plane(); }
};

}  // namespace

struct VisionTower::Impl {
  Impl(const Checkpoint& checkpoint, const ModelConfig& model_config, kernels::Backend& backend,
       const VisionLimits& limits, const Sharding& sharding, Communicator* communicator)
      : backend(backend),
        vision(backend.vision()),
        limits(limits),
        sharding(sharding),
        communicator(communicator) {
    QUERN_CHECK(!sharding.vision_data_parallel || sharding.size == 1 || communicator != nullptr);
    check_vision_supported(model_config);
    check_sharding(model_config, sharding, true);
    config = *model_config.vision_config;
    merge = config.img_token_compression_config.spatial_merge_size;
    text_hidden = config.projection_dim;
    patch_values = config.num_channels * config.img_token_compression_config.temporal_patch_size *
                   config.patch_size * config.patch_size;
    validate_tensors(model_config, checkpoint);
    parts = sharding.vision_data_parallel ? 1 : sharding.size;
    bind(checkpoint, model_config);
    allocate(model_config.projector_hidden_size);
  }

  void bind(const Checkpoint& checkpoint, const ModelConfig& model_config) {
    const VisionBinder binder(checkpoint, model_config, backend, sharding);
    const std::string prefix = "vision_tower.vision_model.";
    const std::string patch_name = prefix + "embeddings.patch_embedding.weight";
    const TensorView& patch_weight = checkpoint.get(patch_name);
    if (patch_weight.dtype != DType::kF32) {
      throw Error("tensor '{}' is {}, expected F32", patch_name, dtype_name(patch_weight.dtype));
    }
    patch_embedding.weight = vision.bind_patch_embedding(patch_weight);
    pre_norm = binder.layer_norm(prefix + "pre_layrnorm");
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
      layers.push_back(bind_layer(binder, fmt::format("{}encoder.layers.{}.", prefix, i)));
    const bool bias = model_config.multimodal_projector_bias;
    projector1 = binder.affine("multi_modal_projector.linear_1", bias);
    projector2 = binder.affine("multi_modal_projector.linear_2", bias);
    merger1 = binder.affine("patch_merge_mlp.linear_1", model_config.patch_merge_bias);
    merger2 = binder.affine("patch_merge_mlp.linear_2", model_config.patch_merge_bias);
  }

  void allocate(std::int64_t projector_hidden) {
    const std::int64_t patches = limits.max_patches;
    pixels = backend.allocate(patches, patch_values);
    for (Matrix* matrix : {&stream, &normed})
      *matrix = backend.allocate(patches, config.hidden_size);
    for (Matrix* matrix : {&q, &k, &v})
      *matrix = backend.allocate(patches, config.hidden_size / parts);
    if (parts > 1) {
      const std::int64_t widest =
          std::max({config.hidden_size, config.intermediate_size, projector_hidden, text_hidden});
      own = backend.allocate(patches, widest / parts);
    }
    inner = backend.allocate(patches, std::max(config.intermediate_size, projector_hidden));
    projected = backend.allocate(patches, text_hidden);
    features = backend.allocate(patches / (merge * merge), text_hidden);
    projector_size = projector_hidden;
  }

  void encode(std::span<const ImagePatches* const> images, std::span<float> out) {
    std::int64_t tokens = 0;
    for (const ImagePatches* image : images) {
      check(*image);
      tokens += image->num_tokens;
    }
    QUERN_CHECK(static_cast<std::int64_t>(out.size()) == tokens * text_hidden);
    if (sharding.vision_data_parallel && sharding.size > 1) {
      encode_apart(images, out);
    } else {
      encode_here(images, out);
    }
  }

  // Each image on one rank; a rank without images takes part in the exchange.
  void encode_apart(std::span<const ImagePatches* const> images, std::span<float> out) {
    std::vector<std::int64_t> patches;
    for (const ImagePatches* image : images) patches.push_back(image->num_patches());
    const std::vector<int> ranks = distribute_images(patches, sharding.size);
    const auto values = [&](std::size_t i) {
      return static_cast<std::size_t>(images[i]->num_tokens * text_hidden);
    };
    std::vector<std::size_t> counts(static_cast<std::size_t>(sharding.size), 0);
    std::vector<const ImagePatches*> mine;
    for (std::size_t i = 0; i < images.size(); ++i) {
      counts[static_cast<std::size_t>(ranks[i])] += values(i) * sizeof(float);
      if (ranks[i] == sharding.rank) mine.push_back(images[i]);
    }
    std::vector<float> own_features(counts[static_cast<std::size_t>(sharding.rank)] /
                                    sizeof(float));
    encode_here(mine, own_features);
    std::vector<float> all(out.size());
    communicator->all_gather_v(std::as_bytes(std::span(own_features)), counts,
                               std::as_writable_bytes(std::span(all)));
    std::vector<std::size_t> next(counts.size(), 0);  // of each rank in `all`
    for (std::size_t r = 1; r < next.size(); ++r)
      next[r] = next[r - 1] + counts[r - 1] / sizeof(float);
    for (std::size_t i = 0; i < images.size(); ++i) {
      std::size_t& from = next[static_cast<std::size_t>(ranks[i])];
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(from), values(i), out.begin());
      out = out.subspan(values(i));
      from += values(i);
    }
  }

  void encode_here(std::span<const ImagePatches* const> images, std::span<float> out) {
    std::vector<Segment> pass;
    std::int64_t patches = 0;
    const auto run_pass = [&] {
      if (pass.empty()) return;
      const auto count = static_cast<std::size_t>(patches / (merge * merge) * text_hidden);
      run(pass, patches, out.first(count));
      out = out.subspan(count);
      pass.clear();
      patches = 0;
    };
    for (const ImagePatches* image : images) {
      const int steps = static_cast<int>(config.vision_segment_max_frames);
      for (int t = 0; t < image->grid_t; t += steps) {
        const Segment segment{image, t, std::min(t + steps, image->grid_t)};
        if (patches + segment.patches() > limits.max_patches) run_pass();
        patches += segment.patches();
        pass.push_back(segment);
      }
    }
    run_pass();
  }

  // What a preprocessor of another configuration would get wrong.
  void check(const ImagePatches& image) const {
    if (image.grid_t <= 0 || image.grid_h <= 0 || image.grid_w <= 0 || image.grid_h % merge != 0 ||
        image.grid_w % merge != 0) {
      throw Error("image of {} x {} x {} patches: expected multiples of {}", image.grid_t,
                  image.grid_h, image.grid_w, merge);
    }
    const std::int64_t patches = image.num_patches();
    if (static_cast<std::int64_t>(image.pixels.size()) != patches * patch_values ||
        image.num_tokens != patches / (merge * merge)) {
      throw Error(
          "image of {} patches has {} values and {} tokens: the tower reads {} a patch, {} "
          "patches a token",
          patches, image.pixels.size(), image.num_tokens, patch_values, merge * merge);
    }
    const std::int64_t steps =
        std::min<std::int64_t>(config.vision_segment_max_frames, image.grid_t);
    const std::int64_t segment = steps * image.grid_h * image.grid_w;
    if (segment > limits.max_patches) {
      throw Error("image of {} patches in a segment exceeds the limit of {}", segment,
                  limits.max_patches);
    }
  }

  // Positions in the order of the patches; t starts again in every segment.
  void set_patches(std::span<const Segment> pass) {
    coordinates.clear();
    segment_ends.clear();
    const int side = static_cast<int>(merge);
    for (const Segment& segment : pass) {
      for (int t = 0; t < segment.end - segment.begin; ++t) {
        for (int row = 0; row < segment.image->grid_h; row += side) {
          for (int col = 0; col < segment.image->grid_w; col += side) {
            for (int i = 0; i < side * side; ++i)
              coordinates.insert(coordinates.end(), {t, row + i / side, col + i % side});
          }
        }
      }
      segment_ends.push_back(static_cast<std::int64_t>(coordinates.size() / 3));
    }
    vision.begin_patches({coordinates, segment_ends},
                         {static_cast<int>(config.num_attention_heads / parts),
                          static_cast<int>(config.hidden_size / config.num_attention_heads),
                          static_cast<float>(config.rope_theta)});
  }

  void write_pixels(std::span<const Segment> pass) {
    std::int64_t row = 0;
    for (const Segment& segment : pass) {
      const auto first = static_cast<std::size_t>(segment.begin * segment.plane() * patch_values);
      const auto count = static_cast<std::size_t>(segment.patches() * patch_values);
      backend.write(pixels, row, std::span(segment.image->pixels).subspan(first, count));
      row += segment.patches();
    }
  }

  void run(std::span<const Segment> pass, std::int64_t patches, std::span<float> out) {
    set_patches(pass);
    write_pixels(pass);
    const Matrix x = stream.first_rows(patches);
    const Matrix in = normed.first_rows(patches);
    vision.affine(patch_embedding, Activation::kNone, pixels.first_rows(patches), in);
    vision.layer_norm(pre_norm, eps(), in, x);
    for (const VisionLayer& layer : layers) run_layer(layer, x, in);
    project(x, out);
  }

  // out = activation(in weight^T + bias), from the columns of all ranks.
  void affine(const Affine& weights, Activation activation, Matrix in, Matrix out) {
    if (parts == 1) return vision.affine(weights, activation, in, out);
    const Matrix mine = own.view(out.rows, out.cols / parts);
    vision.affine(weights, activation, in, mine);
    backend.gather_columns(mine, out);
  }

  // x += in weight^T + bias.
  void add_affine(const Affine& weights, Matrix in, Matrix x) {
    if (parts == 1) return vision.add_affine(weights, in, x);
    const Matrix mine = own.view(x.rows, x.cols / parts);
    backend.own_columns(x, mine);
    vision.add_affine(weights, in, mine);
    backend.gather_columns(mine, x);
  }

  // out = attention of the rank's heads, then those of all ranks.
  void attend(Matrix query, Matrix key, Matrix value, Matrix out) {
    if (parts == 1) return vision.attend(query, key, value, out);
    const Matrix mine = own.view(out.rows, out.cols / parts);
    vision.attend(query, key, value, mine);
    backend.gather_columns(mine, out);
  }

  void run_layer(const VisionLayer& layer, Matrix x, Matrix in) {
    const Matrix query = q.first_rows(x.rows);
    const Matrix key = k.first_rows(x.rows);
    const Matrix value = v.first_rows(x.rows);
    const Matrix middle = inner.view(x.rows, config.intermediate_size);
    vision.layer_norm(layer.norm1, eps(), x, in);
    vision.affine(layer.q_proj, Activation::kNone, in, query);
    vision.affine(layer.k_proj, Activation::kNone, in, key);
    vision.affine(layer.v_proj, Activation::kNone, in, value);
    attend(query, key, value, in);
    add_affine(layer.out_proj, in, x);
    vision.layer_norm(layer.norm2, eps(), x, in);
    affine(layer.fc1, Activation::kGelu, in, middle);
    add_affine(layer.fc2, middle, x);
  }

  // Each patch to the language model's width, then the patches of a window, which lie one behind
  // the other, to one row.
  void project(Matrix x, std::span<float> out) {
    const std::int64_t tokens = x.rows / (merge * merge);
    const Matrix each = projected.first_rows(x.rows);
    const Matrix rows = features.first_rows(tokens);
    affine(projector1, Activation::kGelu, x, inner.view(x.rows, projector_size));
    affine(projector2, Activation::kNone, inner.view(x.rows, projector_size), each);
    const Matrix windows = each.view(tokens, text_hidden * merge * merge);
    affine(merger1, Activation::kGelu, windows, inner.view(tokens, projector_size));
    affine(merger2, Activation::kNone, inner.view(tokens, projector_size), rows);
    const auto width = static_cast<std::size_t>(text_hidden);
    for (std::int64_t r = 0; r < tokens; ++r)
      backend.read(rows, r, out.subspan(static_cast<std::size_t>(r) * width, width));
  }

  float eps() const { return static_cast<float>(config.layer_norm_eps); }

  kernels::Backend& backend;
  kernels::VisionBackend& vision;
  VisionLimits limits;
  Sharding sharding;
  Communicator* communicator;
  int parts = 1;  // of every matrix, on as many ranks
  VisionConfig config;
  std::int64_t merge = 0, text_hidden = 0, patch_values = 0, projector_size = 0;

  Affine patch_embedding, projector1, projector2, merger1, merger2;
  LayerNormWeights pre_norm;
  std::vector<VisionLayer> layers;

  // Device: the residual stream, the normed input of a branch (or attention's output), attention's
  // operands, the inner values of a multilayer perceptron, the projected patches, the rows; this
  // rank's columns of a result.
  Matrix pixels, stream, normed, q, k, v, inner, projected, features, own;
  // Host: the pass.
  std::vector<std::int32_t> coordinates;
  std::vector<std::int64_t> segment_ends;
};

std::vector<int> distribute_images(std::span<const std::int64_t> patches, int size) {
  std::vector<std::size_t> order(patches.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order,
                           [&](std::size_t a, std::size_t b) { return patches[a] > patches[b]; });
  std::vector<std::int64_t> load(static_cast<std::size_t>(size), 0);
  std::vector<int> ranks(patches.size());
  for (const std::size_t image : order) {
    const auto least = std::ranges::min_element(load);
    *least += patches[image];
    ranks[image] = static_cast<int>(least - load.begin());
  }
  return ranks;
}

bool VisionTower::present(const Checkpoint& checkpoint, const ModelConfig& config) {
  return config.vision_config &&
         std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(),
                     [](const auto& tensor) { return tensor.name.starts_with("vision_tower."); });
}

VisionTower::VisionTower(const Checkpoint& checkpoint, const ModelConfig& config,
                         kernels::Backend& backend, const VisionLimits& limits,
                         const Sharding& sharding, Communicator* communicator)
    : impl_(std::make_unique<Impl>(checkpoint, config, backend, limits, sharding, communicator)) {}

VisionTower::~VisionTower() = default;

int VisionTower::hidden_size() const { return static_cast<int>(impl_->text_hidden); }

void VisionTower::encode(std::span<const ImagePatches* const> images, std::span<float> features) {
  impl_->encode(images, features);
}

}  // namespace quern::model
