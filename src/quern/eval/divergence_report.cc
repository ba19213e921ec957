// The figures of divergence.h: means, standard errors, percentiles; as tables and as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quern/eval/divergence.h"
#include "quern/eval/recovery.h"
#include "quern/eval/markdown.h"

namespace quern {
namespace {

using Values = std::vector<double>;

struct Quantile {
  const char* name;
  double share;
};
// llama-perplexity's, from the top down.
constexpr Quantile kQuantiles[] = {
    {"maximum", 1}, {"99.9 %", 0.999}, {"99 %", 0.99}, {"95 %", 0.95}, {"90 %", 0.9},
    {"75 %", 0.75}, {"median", 0.5},   {"25 %", 0.25}, {"10 %", 0.1},  {"5 %", 0.05},
    {"1 %", 0.01},  {"0.1 %", 0.001},  {"minimum", 0}};

template <typename Read>
Values column(const Divergence& divergence, const Read& read) {
  Values values;
  values.reserve(divergence.tokens.size());
  for (const TokenDivergence& token : divergence.tokens) values.push_back(read(token));
  return values;
}

double mean_of(const Values& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Sample covariance; NaN for one value.
double covariance(const Values& a, const Values& b) {
  const double mean_a = mean_of(a);
  const double mean_b = mean_of(b);
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - mean_a) * (b[i] - mean_b);
  return sum / (static_cast<double>(a.size()) - 1);
}

Estimate estimate(const Values& values) {
  return {mean_of(values),
          std::sqrt(covariance(values, values) / static_cast<double>(values.size()))};
}

// Root of the mean square, its error to first order.
Estimate root_mean_square(const Values& values) {
  Values squares;
  for (const double value : values) squares.push_back(value * value);
  const Estimate mean = estimate(squares);
  const double root = std::sqrt(mean.value);
  return {root, root > 0 ? mean.error / (2 * root) : 0};
}

// Perplexity is exp of a mean.
Estimate exponential(const Estimate& log) {
  return {std::exp(log.value), std::exp(log.value) * log.error};
}

struct Columns {
  explicit Columns(const Divergence& d)
      : base_nll(column(d, [](const auto& t) { return t.base_nll; })),
        quantized_nll(column(d, [](const auto& t) { return t.quantized_nll; })),
        kl(column(d, [](const auto& t) { return t.kl; })),
        token_change(column(d, [](const auto& t) { return t.token_change; })),
        choice_change(column(d, [](const auto& t) { return t.choice_change; })),
        same(column(d, [](const auto& t) { return t.same_choice ? 1.0 : 0.0; })) {}
  Values base_nll, quantized_nll, kl, token_change, choice_change, same;
};

Json estimate_json(const Estimate& value) {
  return {{"value", value.value},
          {"stderr", std::isfinite(value.error) ? Json(value.error) : Json(nullptr)}};
}

Json quantiles_json(Values values) {
  Json out = Json::object();
  for (const Quantile& q : kQuantiles) out[q.name] = quantile(values, q.share);
  return out;
}

std::string text(const Estimate& value, int decimals) {
  return fmt::format("{:.{}f} ± {:.{}f}", value.value, decimals, value.error, decimals);
}

std::string share(std::size_t equal, std::size_t all) {
  return all == 0
             ? ""
             : fmt::format("{:.2f}", 100 * static_cast<double>(equal) / static_cast<double>(all));
}

std::string layer_table(const Divergence& divergence) {
  std::vector<std::vector<std::string>> rows;
  for (const LayerDivergence& layer : divergence.layers) {
    rows.push_back({std::to_string(layer.layer), fmt::format("{:.2f}", layer.sqnr_db()),
                    share(layer.equal_experts, layer.experts),
                    share(layer.equal_blocks, layer.blocks)});
  }
  return markdown_table({"Layer", "SQNR dB", "Equal experts %", "Equal blocks %"}, rows);
}

}  // namespace

DivergenceSummary summarize(const Divergence& divergence) {
  const Columns columns(divergence);
  DivergenceSummary out;
  out.tokens = divergence.tokens.size();
  out.base_perplexity = exponential(estimate(columns.base_nll));
  out.quantized_perplexity = exponential(estimate(columns.quantized_nll));
  Values differences;
  for (std::size_t i = 0; i < out.tokens; ++i)
    differences.push_back(columns.quantized_nll[i] - columns.base_nll[i]);
  out.log_ratio = estimate(differences);
  out.ratio = exponential(out.log_ratio);
  // Var(Q - B) = Var(Q) + Var(B) - 2 Cov, each of a perplexity to first order.
  const double b = out.base_perplexity.value;
  const double q = out.quantized_perplexity.value;
  const double cross = covariance(columns.base_nll, columns.quantized_nll);
  const double variance_b = covariance(columns.base_nll, columns.base_nll);
  const double variance_q = covariance(columns.quantized_nll, columns.quantized_nll);
  const double variance = (b * b * variance_b + q * q * variance_q - 2 * b * q * cross) /
                          static_cast<double>(out.tokens);
  out.difference = {q - b, std::sqrt(std::max(0.0, variance))};
  out.correlation = cross / std::sqrt(variance_b * variance_q);
  out.kl = estimate(columns.kl);
  out.token_change = estimate(columns.token_change);
  out.token_change_rms = root_mean_square(columns.token_change);
  out.choice_change = estimate(columns.choice_change);
  out.choice_change_rms = root_mean_square(columns.choice_change);
  out.same_choice = estimate(columns.same);
  return out;
}

Json divergence_json(const Divergence& divergence) {
  const Columns columns(divergence);
  const DivergenceSummary s = summarize(divergence);
  Json out{
      {"tokens", s.tokens},
      {"base_perplexity", estimate_json(s.base_perplexity)},
      {"quantized_perplexity", estimate_json(s.quantized_perplexity)},
      {"log_perplexity_ratio", estimate_json(s.log_ratio)},
      {"perplexity_ratio", estimate_json(s.ratio)},
      {"perplexity_difference", estimate_json(s.difference)},
      {"log_probability_correlation", std::isfinite(s.correlation) ? Json(s.correlation) : Json()},
      {"kl_divergence", estimate_json(s.kl)},
      {"kl_divergence_quantiles", quantiles_json(columns.kl)},
      {"token_probability_change", estimate_json(s.token_change)},
      {"token_probability_change_rms", estimate_json(s.token_change_rms)},
      {"token_probability_change_quantiles", quantiles_json(columns.token_change)},
      {"base_choice_probability_change", estimate_json(s.choice_change)},
      {"base_choice_probability_change_rms", estimate_json(s.choice_change_rms)},
      {"base_choice_probability_change_quantiles", quantiles_json(columns.choice_change)},
      {"top1_agreement", estimate_json(s.same_choice)},
      {"layers", Json::array()}};
  const auto ratio = [](std::size_t equal, std::size_t all) {
    return all == 0 ? Json(nullptr) : Json(static_cast<double>(equal) / static_cast<double>(all));
  };
  for (const LayerDivergence& layer : divergence.layers) {
    const double db = layer.sqnr_db();
    out["layers"].push_back({{"layer", layer.layer},
                             {"sqnr_db", std::isfinite(db) ? Json(db) : Json(nullptr)},
                             {"equal_experts", ratio(layer.equal_experts, layer.experts)},
                             {"equal_blocks", ratio(layer.equal_blocks, layer.blocks)}});
  }
  return out;
}

std::string divergence_table(const Divergence& divergence) {
  const DivergenceSummary s = summarize(divergence);
  const Columns columns(divergence);
  const auto percent = [](const Estimate& e) { return Estimate{100 * e.value, 100 * e.error}; };
  std::string out = markdown_table(
      {"Figure", "Value"},
      {{"Scored tokens", std::to_string(s.tokens)},
       {"Perplexity of the base", text(s.base_perplexity, 5)},
       {"Perplexity of the quantized model", text(s.quantized_perplexity, 5)},
       {"Correlation of log-probabilities", fmt::format("{:.2f} %", 100 * s.correlation)},
       {"ln(perplexity ratio)", text(s.log_ratio, 5)},
       {"Perplexity ratio", text(s.ratio, 5)},
       {"Perplexity difference", text(s.difference, 5)},
       {"KL divergence", text(s.kl, 6)},
       {"Change of the token's probability", text(percent(s.token_change), 3) + " %"},
       {"RMS of that", text(percent(s.token_change_rms), 3) + " %"},
       {"Change of the base's choice's probability", text(percent(s.choice_change), 3) + " %"},
       {"RMS of that", text(percent(s.choice_change_rms), 3) + " %"},
       {"Same most probable token", text(percent(s.same_choice), 3) + " %"}});
  std::vector<std::vector<std::string>> rows;
  Values kl = columns.kl;
  Values token = columns.token_change;
  Values choice = columns.choice_change;
  for (const Quantile& q : kQuantiles) {
    rows.push_back({q.name, fmt::format("{:.6f}", quantile(kl, q.share)),
                    fmt::format("{:.3f}", 100 * quantile(token, q.share)),
                    fmt::format("{:.3f}", 100 * quantile(choice, q.share))});
  }
  out += "\n" +
         markdown_table({"Quantile", "KL divergence", "Token change %", "Choice change %"}, rows);
  if (!divergence.layers.empty()) out += "\n" + layer_table(divergence);
  return out;
}

}  // namespace quern
