// See divergence.h. The set of figures: llama.cpp tools/perplexity/README.md (KL divergence).
#include "quern/eval/divergence.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "quern/base/error.h"
#include "quern/base/progress.h"

namespace quern {
namespace {

// Entries of `a` that are in `b`, both without repeats; -1 marks an empty place.
std::size_t common(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  std::size_t count = 0;
  for (const std::int32_t value : a) {
    if (value >= 0 && std::find(b.begin(), b.end(), value) != b.end()) ++count;
  }
  return count;
}

std::size_t argmax(std::span<const float> values) {
  return static_cast<std::size_t>(
      std::distance(values.begin(), std::max_element(values.begin(), values.end())));
}

// Compares one kind of choice (experts, blocks), row by row.
void count_choices(std::span<const std::int32_t> base, std::span<const std::int32_t> quantized,
                   std::size_t row, std::size_t& all, std::size_t& equal) {
  for (std::size_t i = 0; i < base.size(); i += row) {
    const auto chosen = base.subspan(i, row);
    all += static_cast<std::size_t>(
        std::count_if(chosen.begin(), chosen.end(), [](std::int32_t v) { return v >= 0; }));
    equal += common(chosen, quantized.subspan(i, row));
  }
}

// Runs one model over the texts of a record and compares as its values come.
class Comparer {
 public:
  Comparer(const BaseRecord& base, LogitModel& quantized)
      : base_(base), quantized_(quantized), config_(quantized.config()) {
    if (quantized.vocab_size() != base.vocab_size()) {
      throw Error("{}: vocabulary of {}, the quantized model has {}", base.path().string(),
                  base.vocab_size(), quantized.vocab_size());
    }
    const auto layers = static_cast<int>(config_.num_hidden_layers);
    has_layers_ = !base.hidden(0).empty();
    if (has_layers_ && (base.hidden(layers - 1).empty() || !base.hidden(layers).empty()))
      throw Error("{}: not a record of a model of {} layers", base.path().string(), layers);
    for (int i = 0; has_layers_ && i < layers; ++i) {
      out_.layers.emplace_back().layer = i;
      hidden_.push_back(checked(base.hidden(i), width_hidden(), "hidden", i));
      experts_.push_back(
          checked(base.experts(i), config_.is_moe_layer(i) ? width_experts() : 0, "experts", i));
      blocks_.push_back(checked(
          base.blocks(i), config_.is_sparse_attention_layer(i) ? width_blocks() : 0, "blocks", i));
    }
    out_.tokens.reserve(base.scored());
  }

  void text(const ScoredText& text) {
    TextObserver observer;
    observer.on_logits = [&](std::size_t first, std::span<const float> logits) {
      const std::size_t vocab = quantized_.vocab_size();
      for (std::size_t row = 0; row * vocab < logits.size(); ++row) {
        const std::size_t predicted = first + row + 1;
        if (predicted < text.first_scored || predicted >= text.tokens.size()) continue;
        const std::size_t record_row = first_row_ + predicted - text.first_scored;
        out_.tokens.push_back(token_divergence(base_.logits(record_row),
                                               logits.subspan(row * vocab, vocab),
                                               static_cast<std::size_t>(text.tokens[predicted])));
      }
    };
    if (has_layers_) observe_layers(observer);
    quantized_.run(text.tokens, observer);
    first_token_ += text.tokens.size();
    first_row_ += text.scored();
  }

  Divergence take() { return std::move(out_); }

 private:
  std::size_t width_hidden() const { return static_cast<std::size_t>(config_.hidden_size); }
  std::size_t width_experts() const {
    return static_cast<std::size_t>(config_.num_experts_per_tok);
  }
  std::size_t top_blocks() const {
    return static_cast<std::size_t>(config_.sparse_attention_config->sparse_topk_blocks);
  }
  std::size_t width_blocks() const {
    return static_cast<std::size_t>(config_.num_key_value_heads) * top_blocks();
  }

  template <typename T>
  std::span<const T> checked(std::span<const T> values, std::size_t width, const char* kind,
                             int layer) const {
    if (values.size() != base_.tokens() * width) {
      throw Error("{}: {}.{} has {} values, the quantized model {}", base_.path().string(), kind,
                  layer, values.size(), base_.tokens() * width);
    }
    return values;
  }

  void observe_layers(TextObserver& observer) {
    observer.on_hidden = [this](int layer, std::size_t first, std::span<const float> values) {
      const auto i = static_cast<std::size_t>(layer);
      const auto base = hidden_[i].subspan((first_token_ + first) * width_hidden(), values.size());
      for (std::size_t v = 0; v < values.size(); ++v) {
        const double signal = base[v];
        const double error = signal - static_cast<double>(values[v]);
        out_.layers[i].signal += signal * signal;
        out_.layers[i].error += error * error;
      }
    };
    observer.on_experts = [this](int layer, std::size_t first,
                                 std::span<const std::int32_t> values) {
      const auto i = static_cast<std::size_t>(layer);
      const auto base =
          experts_[i].subspan((first_token_ + first) * width_experts(), values.size());
      count_choices(base, values, width_experts(), out_.layers[i].experts,
                    out_.layers[i].equal_experts);
    };
    observer.on_blocks = [this](int layer, std::size_t first,
                                std::span<const std::int32_t> values) {
      const auto i = static_cast<std::size_t>(layer);
      const auto base = blocks_[i].subspan((first_token_ + first) * width_blocks(), values.size());
      count_choices(base, values, top_blocks(), out_.layers[i].blocks, out_.layers[i].equal_blocks);
    };
  }

  const BaseRecord& base_;
  LogitModel& quantized_;
  const TextConfig& config_;
  bool has_layers_ = false;
  std::vector<std::span<const float>> hidden_;  // by layer
  std::vector<std::span<const std::int32_t>> experts_, blocks_;
  std::size_t first_token_ = 0;  // of the text that runs, in the record
  std::size_t first_row_ = 0;
  Divergence out_;
};

}  // namespace

double LayerDivergence::sqnr_db() const { return 10 * std::log10(signal / error); }

TokenDivergence token_divergence(std::span<const float> base, std::span<const float> quantized,
                                 std::size_t token) {
  const double base_norm = log_sum_exp(base);
  const double quantized_norm = log_sum_exp(quantized);
  TokenDivergence out;
  for (std::size_t v = 0; v < base.size(); ++v) {
    const double base_log = base[v] - base_norm;
    out.kl += std::exp(base_log) * (base_log - (quantized[v] - quantized_norm));
  }
  const std::size_t choice = argmax(base);
  const auto change = [&](std::size_t v) {
    return std::exp(quantized[v] - quantized_norm) - std::exp(base[v] - base_norm);
  };
  out.base_nll = base_norm - base[token];
  out.quantized_nll = quantized_norm - quantized[token];
  out.token_change = change(token);
  out.choice_change = change(choice);
  out.same_choice = choice == argmax(quantized);
  return out;
}

Divergence measure_divergence(const BaseRecord& base, LogitModel& quantized, bool show_progress) {
  Comparer comparer(base, quantized);
  std::optional<Progress> progress;
  if (show_progress) progress.emplace("Quantized model", base.tokens(), ProgressUnit::kItems);
  for (const ScoredText& text : base.texts()) {
    comparer.text(text);
    if (progress) progress->add(text.tokens.size());
  }
  return comparer.take();
}

}  // namespace quern
