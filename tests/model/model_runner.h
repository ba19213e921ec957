// Runs a checkpoint's text model on one sequence with any back end and any cut into chunks, and
// keeps what it saw. Must never use more of the library than a caller of TextModel would.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "quern/base/error.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/kernels/factory.h"
#include "quern/model/text_model.h"

namespace quern::test {

// A golden file's tensors by name.
class Golden {
 public:
  explicit Golden(const std::filesystem::path& path) : file_(path) {}
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  Shape shape(const std::string& name) const { return view(name).shape; }
  std::span<const float> f32(const std::string& name) const {
    const TensorView v = view(name);
    QUERN_CHECK(v.dtype == DType::kF32, "{}", name);
    return {v.as<float>(), static_cast<std::size_t>(v.size())};
  }
  // Empty when the tensor is absent.
  std::span<const std::uint8_t> bytes(const std::string& name) const {
    if (!has(name)) return {};
    const TensorView v = view(name);
    QUERN_CHECK(v.dtype == DType::kU8, "{}", name);
    return {v.as<std::uint8_t>(), static_cast<std::size_t>(v.size())};
  }
  // Integers of either width.
  std::vector<std::int32_t> ints(const std::string& name) const {
    const TensorView v = view(name);
    std::vector<std::int32_t> values;
    for (std::int64_t i = 0; i < v.size(); ++i) {
      values.push_back(v.dtype == DType::kI64 ? static_cast<std::int32_t>(v.as<std::int64_t>()[i])
                                              : v.as<std::int32_t>()[i]);
    }
    return values;
  }

 private:
  TensorView view(const std::string& name) const {
    const TensorInfo* info = file_.find(name);
    QUERN_CHECK(info != nullptr, "no golden tensor '{}'", name);
    return file_.view(*info);
  }
  SafetensorsFile file_;
};

// What one forward pass showed, of its last token unless said otherwise.
struct Seen {
  std::vector<std::vector<float>> hidden;          // per layer, the embedding first
  std::vector<std::vector<std::int32_t>> experts;  // per MoE layer, [tokens, k]
  std::vector<std::vector<std::int32_t>> blocks;   // per sparse layer, [tokens, kv_heads, topk]
  std::vector<float> all_logits;                   // [tokens, vocabulary] when asked for
};

// Features of an image and the position of their first placeholder.
struct FeaturesAt {
  std::span<const float> features;
  std::size_t position = 0;
};

class ModelRunner {
 public:
  ModelRunner(const std::filesystem::path& directory, std::unique_ptr<kernels::Backend> backend,
              int num_blocks = 32, int max_step_tokens = 4096)
      : checkpoint_(Checkpoint::open(directory)),
        config_(parse_model_config(checkpoint_.config())),
        backend_(std::move(backend)),
        model_(checkpoint_, config_, *backend_, {max_step_tokens, 64}),
        cache_(backend_->create_kv_cache(model_.kv_cache_spec(num_blocks))) {
    // Blocks in descending order, so that a mix-up of block id and position cannot go unseen.
    for (int b = num_blocks - 1; b >= 0; --b) table_.push_back(b);
  }

  // Runs `tokens` from position `start` in chunks of `chunk`; returns the logits of the last token.
  // Features take the place of embeddings from at.position in `tokens` on.
  std::vector<float> run(std::span<const std::int32_t> tokens, std::int32_t start = 0,
                         std::size_t chunk = 1 << 20, Seen* seen = nullptr, bool all_logits = false,
                         const FeaturesAt& at = {}) {
    std::vector<float> logits(static_cast<std::size_t>(model_.vocab_size()));
    for (std::size_t i = 0; i < tokens.size(); i += chunk) {
      const auto part = tokens.subspan(i, std::min(chunk, tokens.size() - i));
      const model::FeatureRows rows = rows_inside(at, i, part.size());
      const model::SequenceChunk one{part,
                                     start + static_cast<std::int32_t>(i),
                                     table_,
                                     true,
                                     {&rows, rows.rows.empty() ? std::size_t{0} : 1}};
      const model::ForwardTrace trace = tracer(seen, all_logits);
      model_.forward({&one, 1}, *cache_, logits, seen != nullptr ? &trace : nullptr);
    }
    return logits;
  }

  // Greedy continuation after run(prompt): first the argmax of `logits`.
  std::vector<std::int32_t> greedy(std::vector<float> logits, std::int32_t position,
                                   std::size_t count) {
    std::vector<std::int32_t> tokens;
    while (tokens.size() < count) {
      tokens.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) -
                                                 logits.begin()));
      logits = run({&tokens.back(), 1}, position++);
    }
    return tokens;
  }

  model::TextModel& model() { return model_; }
  kernels::Backend& backend() { return *backend_; }
  kernels::KvCache& cache() { return *cache_; }
  const ModelConfig& config() const { return config_; }
  std::span<const std::int32_t> block_table() const { return table_; }

 private:
  // The part of an image's features that falls into tokens [begin, begin + count).
  model::FeatureRows rows_inside(const FeaturesAt& at, std::size_t begin, std::size_t count) const {
    const auto width = static_cast<std::size_t>(config_.text_config.hidden_size);
    const std::size_t first = std::max(begin, at.position);
    const std::size_t last = std::min(begin + count, at.position + at.features.size() / width);
    if (first >= last) return {};
    return {static_cast<std::int32_t>(first - begin),
            at.features.subspan((first - at.position) * width, (last - first) * width)};
  }

  static model::ForwardTrace tracer(Seen* seen, bool all_logits) {
    model::ForwardTrace trace;
    if (seen == nullptr) return trace;
    *seen = {};
    trace.on_hidden = [seen](int, std::span<const float> row) {
      seen->hidden.emplace_back(row.begin(), row.end());
    };
    trace.on_routing = [seen](int, std::span<const std::int32_t> ids) {
      seen->experts.emplace_back(ids.begin(), ids.end());
    };
    trace.on_selection = [seen](int, std::span<const std::int32_t> ids) {
      seen->blocks.emplace_back(ids.begin(), ids.end());
    };
    if (all_logits) {
      trace.on_all_logits = [seen](std::span<const float> values) {
        seen->all_logits.assign(values.begin(), values.end());
      };
    }
    return trace;
  }

  Checkpoint checkpoint_;
  ModelConfig config_;
  std::unique_ptr<kernels::Backend> backend_;
  model::TextModel model_;
  std::unique_ptr<kernels::KvCache> cache_;
  std::vector<std::int32_t> table_;
};

// Largest |a - b|.
inline float max_difference(std::span<const float> a, std::span<const float> b) {
  QUERN_CHECK(a.size() == b.size());
  float worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

}  // namespace quern::test
