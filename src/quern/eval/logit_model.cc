// See logit_model.h.
#include "quern/eval/logit_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "quern/base/error.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/model/text_model.h"

namespace quern {
namespace {

constexpr std::size_t kMaxChunkTokens = 512;

std::unique_ptr<kernels::Backend> make_backend(const LogitModelOptions& options) {
  if (options.unrounded_reference) return kernels::make_reference_backend(kernels::Rounding::kNone);
  return kernels::make_cpu_backend({options.threads, options.moe_backend});
}

std::size_t chunk_tokens(std::size_t vocab_size, const LogitModelOptions& options) {
  const std::size_t fit = options.logits_bytes / (sizeof(float) * vocab_size);
  return std::clamp<std::size_t>(fit, 1, kMaxChunkTokens);
}

}  // namespace

struct LogitModel::Impl {
  Impl(const std::filesystem::path& directory, const LogitModelOptions& options)
      : checkpoint(Checkpoint::open(directory)),
        config(parse_model_config(checkpoint.config())),
        backend(make_backend(options)),
        chunk(chunk_tokens(static_cast<std::size_t>(config.text_config.vocab_size), options)),
        model(checkpoint, config, *backend, {static_cast<int>(chunk), 1}),
        fingerprint(checkpoint.content_hash()) {}

  // Room for a text; a larger cache takes the place of a smaller one.
  void reserve(std::size_t tokens) {
    const std::size_t blocks = (tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
    if (blocks <= table.size()) return;
    table.resize(blocks);
    std::iota(table.begin(), table.end(), 0);
    cache = backend->create_kv_cache(model.kv_cache_spec(static_cast<int>(blocks)));
  }

  void check(std::span<const std::int32_t> tokens) const {
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= model.vocab_size())
        throw Error("token {} is outside the vocabulary of {}", token, model.vocab_size());
    }
  }

  Checkpoint checkpoint;
  ModelConfig config;
  std::unique_ptr<kernels::Backend> backend;
  std::size_t chunk;
  model::TextModel model;
  std::string fingerprint;
  std::unique_ptr<kernels::KvCache> cache;
  std::vector<std::int32_t> table;
};

LogitModel::LogitModel(const std::filesystem::path& directory, const LogitModelOptions& options)
    : impl_(with_context(directory.string(),
                         [&] { return std::make_unique<Impl>(directory, options); })) {}

LogitModel::~LogitModel() = default;

const TextConfig& LogitModel::config() const { return impl_->model.config(); }
std::size_t LogitModel::vocab_size() const {
  return static_cast<std::size_t>(impl_->model.vocab_size());
}
const std::string& LogitModel::fingerprint() const { return impl_->fingerprint; }

void LogitModel::run(std::span<const std::int32_t> tokens, const TextObserver& observer) {
  impl_->check(tokens);
  impl_->reserve(tokens.size());
  for (std::size_t first = 0; first < tokens.size(); first += impl_->chunk) {
    model::ForwardTrace trace;
    if (observer.on_hidden) {
      trace.on_all_hidden = [&](int layer, std::span<const float> hidden) {
        if (layer >= 0) observer.on_hidden(layer, first, hidden);
      };
    }
    if (observer.on_experts) {
      trace.on_routing = [&](int layer, std::span<const std::int32_t> experts) {
        observer.on_experts(layer, first, experts);
      };
    }
    if (observer.on_blocks) {
      trace.on_selection = [&](int layer, std::span<const std::int32_t> blocks) {
        observer.on_blocks(layer, first, blocks);
      };
    }
    if (observer.on_logits) {
      trace.on_all_logits = [&](std::span<const float> logits) {
        observer.on_logits(first, logits);
      };
    }
    model::SequenceChunk chunk;
    chunk.token_ids = tokens.subspan(first, std::min(impl_->chunk, tokens.size() - first));
    chunk.start_position = static_cast<std::int32_t>(first);
    chunk.block_table = impl_->table;
    chunk.wants_logits = false;
    impl_->model.forward({&chunk, 1}, *impl_->cache, {}, &trace);
  }
}

Loglikelihood LogitModel::loglikelihood(std::span<const std::int32_t> tokens, std::size_t context) {
  QUERN_CHECK(context >= 1 && context <= tokens.size());
  Loglikelihood out{0, true};
  const std::size_t vocab = vocab_size();
  TextObserver observer;
  observer.on_logits = [&](std::size_t first, std::span<const float> logits) {
    for (std::size_t row = 0; row * vocab < logits.size(); ++row) {
      const std::size_t scored = first + row + 1;  // the token that this row predicts
      if (scored < context || scored >= tokens.size()) continue;
      const std::span<const float> values = logits.subspan(row * vocab, vocab);
      const float chosen = values[static_cast<std::size_t>(tokens[scored])];
      out.value += static_cast<double>(chosen) - log_sum_exp(values);
      out.is_greedy = out.is_greedy && chosen == *std::max_element(values.begin(), values.end());
    }
  };
  run(tokens, observer);
  return out;
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

}  // namespace quern
