// See sensitivity.h.
#include "quern/eval/sensitivity.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/eval/markdown.h"
#include "quern/quantize/output_directory.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/template.h"

namespace quern {
namespace {

// A folder that is removed with all that is in it.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& parent) {
    const auto folder = parent.empty() ? std::filesystem::temp_directory_path() : parent;
    std::string name = (folder / "quern-sensitivity-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw_errno(fmt::format("cannot make a folder in '{}'", folder.string()));
    path_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::vector<std::string> split_name(const std::string& name) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

// "a.layers.3.b.experts.7.w2" -> "a.layers.*.b.experts.*.w2".
std::string kind_pattern(const std::string& module) {
  std::string pattern;
  for (const std::string& part : split_name(module))
    pattern += (pattern.empty() ? "" : ".") + (is_number(part) ? "*" : part);
  return pattern;
}

// "a.layers.3.b.experts.7.w2" -> "a.layers.3.*"; empty when the name has no number.
std::string layer_pattern(const std::string& module) {
  std::string pattern;
  for (const std::string& part : split_name(module)) {
    pattern += part + ".";
    if (is_number(part)) return pattern + "*";
  }
  return "";
}

// Quantizes, measures, removes.
class Laboratory {
 public:
  Laboratory(const SensitivityOptions& options) : options_(options), scratch_(options.scratch_dir) {
    const PromptTokenizer tokenizer(options.model_dir);
    const auto texts = read_texts(options.data, tokenizer, options.text);
    const std::filesystem::path file = scratch_.path() / "base.safetensors";
    {
      LogitModel base(options.model_dir, options.model);
      write_base_record(file, base, texts, false);
    }
    base_.emplace(file);
  }

  QuantizePlan plan(const std::vector<std::string>& exclude_layers) const {
    return make_plan(quantize_options(exclude_layers));
  }

  MeasuredRecipe measure(const std::vector<std::string>& exclude_layers) const {
    const QuantizeOptions quantize = quantize_options(exclude_layers);
    const QuantizePlan plan = make_plan(quantize);
    prepare_output_directory(quantize);
    run_plan(plan, quantize);
    MeasuredRecipe out{exclude_layers, 0, {}, {}};
    {
      LogitModel model(quantize.output_dir, options_.model);
      const DivergenceSummary summary = summarize(measure_divergence(*base_, model, false));
      out.kl = summary.kl;
      out.same_choice = summary.same_choice;
    }
    const Checkpoint checkpoint = Checkpoint::open(quantize.output_dir);
    for (const SafetensorsFile& shard : checkpoint.shards()) out.bytes += shard.data().size();
    std::filesystem::remove_all(quantize.output_dir);
    return out;
  }

 private:
  QuantizeOptions quantize_options(const std::vector<std::string>& exclude_layers) const {
    QuantizeOptions quantize;
    quantize.model_dir = options_.model_dir;
    quantize.output_dir = scratch_.path() / "quantized";
    quantize.quant_scheme = options_.quant_scheme;
    quantize.exclude_layers = exclude_layers;
    quantize.template_name = options_.template_name;
    quantize.report = false;
    return quantize;
  }

  const SensitivityOptions& options_;
  Scratch scratch_;
  std::optional<BaseRecord> base_;
};

std::vector<std::string> with(std::vector<std::string> list, const std::string& pattern) {
  list.push_back(pattern);
  return list;
}

// The patterns of one sort (kinds or layers: two of a sort never name the same weight) that fit,
// the best for their bytes first.
std::vector<std::string> choose(const std::vector<SensitivityRow>& rows, bool layers,
                                std::uint64_t budget, double& gain) {
  std::vector<std::string> chosen;
  gain = 0;
  for (const SensitivityRow& row : rows) {
    if (row.is_layer != layers || row.gain <= 0 || row.extra_bytes > budget) continue;
    budget -= row.extra_bytes;
    gain += row.gain;
    chosen.push_back(row.pattern);
  }
  return chosen;
}

std::vector<std::string> row_of(const std::string& name, const MeasuredRecipe& recipe,
                                std::int64_t extra, double gain) {
  return {name,
          std::to_string(extra),
          fmt::format("{:.6f} ± {:.6f}", recipe.kl.value, recipe.kl.error),
          fmt::format("{:.6f}", gain),
          extra > 0 ? fmt::format("{:.3f}", gain / static_cast<double>(extra) * 1e9) : "",
          fmt::format("{:.2f}", 100 * recipe.same_choice.value)};
}

}  // namespace

std::vector<SensitivityRow> recipe_parts(const std::vector<std::string>& quantized_weights) {
  std::vector<SensitivityRow> rows;
  for (const bool layers : {false, true}) {
    for (std::string module : quantized_weights) {
      if (module.ends_with(".weight")) module.resize(module.size() - 7);
      const std::string pattern = layers ? layer_pattern(module) : kind_pattern(module);
      const bool known = std::any_of(rows.begin(), rows.end(),
                                     [&](const auto& row) { return row.pattern == pattern; });
      if (pattern.empty() || known) continue;
      SensitivityRow& row = rows.emplace_back();
      row.pattern = pattern;
      row.is_layer = layers;
    }
  }
  return rows;
}

Sensitivity measure_sensitivity(const SensitivityOptions& options) {
  const Json config = Checkpoint::open(options.model_dir).config();
  const ModelTemplate recipe =
      select_template(options.template_name, config.value("model_type", ""));
  const Laboratory laboratory(options);
  Sensitivity out;
  out.recipe = laboratory.measure(recipe.exclude_layers_name);
  std::vector<std::string> quantized;
  for (const PlannedShard& shard : laboratory.plan(recipe.exclude_layers_name).shards) {
    for (const PlannedTensor& tensor : shard.tensors) {
      if (tensor.action == TensorAction::kQuantize) quantized.push_back(tensor.source.name);
    }
  }
  out.rows = recipe_parts(quantized);
  std::size_t done = 0;
  for (SensitivityRow& row : out.rows) {
    row.without = laboratory.measure(with(recipe.exclude_layers_name, row.pattern));
    row.extra_bytes = row.without.bytes - out.recipe.bytes;
    row.gain = out.recipe.kl.value - row.without.kl.value;
    spdlog::info("{} of {}: without {}: KL {:.6f}", ++done, out.rows.size(), row.pattern,
                 row.without.kl.value);
  }
  std::stable_sort(out.rows.begin(), out.rows.end(), [](const auto& a, const auto& b) {
    return a.gain_per_byte() > b.gain_per_byte();
  });
  double by_kind = 0;
  double by_layer = 0;
  auto kinds = choose(out.rows, false, options.extra_bytes, by_kind);
  auto layers = choose(out.rows, true, options.extra_bytes, by_layer);
  out.suggested = by_kind >= by_layer ? std::move(kinds) : std::move(layers);
  if (out.suggested.empty()) return out;
  std::vector<std::string> list = recipe.exclude_layers_name;
  list.insert(list.end(), out.suggested.begin(), out.suggested.end());
  out.with_suggested = laboratory.measure(list);
  return out;
}

std::string sensitivity_table(const Sensitivity& found) {
  std::vector<std::vector<std::string>> rows{row_of("(the recipe)", found.recipe, 0, 0)};
  for (const SensitivityRow& row : found.rows) {
    rows.push_back(
        row_of(row.pattern, row.without, static_cast<std::int64_t>(row.extra_bytes), row.gain));
  }
  if (!found.suggested.empty()) {
    const MeasuredRecipe& with = found.with_suggested;
    rows.push_back(row_of("(with the suggested list)", with,
                          static_cast<std::int64_t>(with.bytes - found.recipe.bytes),
                          found.recipe.kl.value - with.kl.value));
  }
  std::string out = markdown_table(
      {"Left as it was", "More bytes", "KL divergence", "Gain", "Gain per GB", "Same top token %"},
      rows);
  if (found.suggested.empty()) return out + "\nno list fits the size budget\n";
  out += "\n--exclude_layers";
  for (const std::string& pattern : found.with_suggested.exclude_layers)
    out += " '" + pattern + "'";
  return out + "\n";
}

Json sensitivity_json(const Sensitivity& found) {
  const auto recipe = [](const MeasuredRecipe& measured) {
    return Json{{"exclude_layers", measured.exclude_layers},
                {"bytes", measured.bytes},
                {"kl_divergence", {{"value", measured.kl.value}, {"stderr", measured.kl.error}}},
                {"top1_agreement",
                 {{"value", measured.same_choice.value}, {"stderr", measured.same_choice.error}}}};
  };
  Json out{
      {"recipe", recipe(found.recipe)}, {"parts", Json::array()}, {"suggested", found.suggested}};
  for (const SensitivityRow& row : found.rows) {
    out["parts"].push_back({{"pattern", row.pattern},
                            {"is_layer", row.is_layer},
                            {"extra_bytes", row.extra_bytes},
                            {"gain", row.gain},
                            {"without", recipe(row.without)}});
  }
  if (!found.suggested.empty()) out["with_suggested"] = recipe(found.with_suggested);
  return out;
}

}  // namespace quern
