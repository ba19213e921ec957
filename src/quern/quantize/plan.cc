// See plan.h. Rules: AMD Quark 0.13, quantization/file2file_quantization.py.
#include "quern/quantize/plan.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <tuple>
#include <unordered_map>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/progress.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/quantize/fnmatch.h"
#include "quern/quantize/template.h"
#include "quern/quantize/weight_encoder.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxConfigBytes = 64u << 20;
constexpr std::size_t kMaxIndexBytes = 1u << 30;
// A smaller budget is kept as well as can be.
constexpr std::uint64_t kLeastBudgetBytes = 1u << 20;

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

bool is_other_float(DType dtype) {
  return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2 || dtype == DType::kF8E8M0 ||
         dtype == DType::kF64;
}

std::string_view module_of(std::string_view tensor) { return tensor.substr(0, tensor.rfind('.')); }

// The dtype of passed-through linear weights (_get_model_dtype_from_hf_model_config).
DType model_dtype(const Json& config) {
  static const Json kEmpty = Json::object();
  const bool has_text = config.contains("text_config") && config["text_config"].is_object();
  const Json& text = has_text ? config["text_config"] : kEmpty;
  const auto string_of = [](const Json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  std::string name;
  for (const auto& [object, key] :
       {std::pair(&text, "dtype"), std::pair(&text, "torch_dtype"),
        std::pair(&config, "torch_dtype"), std::pair(&config, "dtype")}) {
    if (name.empty()) name = string_of(*object, key);
  }
  if (name.empty() || name == "auto" || name == "bfloat16") return DType::kBF16;
  if (name == "float16" || name == "half") return DType::kF16;
  if (name == "float32" || name == "float") return DType::kF32;
  throw Error("config.json: torch_dtype: expected bfloat16, float16 or float32, found \"{}\"",
              name);
}

// What the index and the record of a run will name: JSON holds UTF-8 only.
void check_utf8(std::string_view what, const std::string& text) {
  const auto shown =
      Json(text).dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::detail::error_handler_t::replace);
  try {
    (void)Json(text).dump();
  } catch (const Json::exception&) {
    throw Error("{} {} (invalid bytes shown as \\ufffd): expected UTF-8", what, shown);
  }
}

void check_options_utf8(const QuantizeOptions& options) {
  check_utf8("importance file", options.importance_file.string());
  check_utf8("template", options.template_name);
  for (const std::string& layer : options.layer_config) check_utf8("layer_config", layer);
  for (const std::string& pattern : options.exclude_layers.value_or(std::vector<std::string>{}))
    check_utf8("exclude_layers", pattern);
  for (const WeightConverter& converter : options.weight_converters) {
    check_utf8("weight converter", converter.source);
    for (const std::string& target : converter.targets) check_utf8("weight converter", target);
  }
  for (const auto& [pattern, rows] : options.presharded_weights)
    check_utf8("presharded_weights", pattern);
}

std::vector<fs::path> find_shards(const fs::path& directory) {
  std::vector<fs::path> shards;
  std::map<std::string, fs::path> by_name;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::error_code error;
    const fs::file_status status = entry.status(error);
    if (fs::is_directory(status)) continue;
    if (!fs::is_regular_file(status)) {
      throw Error("'{}' is {}; is the download complete?", entry.path().string(),
                  entry.is_symlink() ? "a link that leads to no file" : "not a file");
    }
    check_utf8("file name", entry.path().lexically_relative(directory).string());
    const auto [other, inserted] = by_name.emplace(entry.path().filename().string(), entry.path());
    if (!inserted) {
      throw Error("'{}' and '{}' would both be written as '{}'", other->second.string(),
                  entry.path().string(), other->first);
    }
  }
  for (const auto& [name, path] : by_name) shards.push_back(path);
  if (shards.empty()) throw Error("no *.safetensors file under '{}'", directory.string());
  return shards;
}

// A missing shard must not pass as a smaller model.
void check_index(const fs::path& directory, const TensorDirectory& tensors) {
  const fs::path path = directory / "model.safetensors.index.json";
  if (!fs::exists(path)) return;
  const auto index = parse_safetensors_index(read_file(path, kMaxIndexBytes), path.string());
  for (const auto& [tensor, file] : index.weight_map) {
    if (!tensors.contains(tensor)) {
      throw Error("{}: tensor '{}' of '{}' is in no shard; is the download complete?",
                  path.string(), tensor, file);
    }
  }
}

// A source shard and its tensors in the order of their bytes.
struct SourceShard {
  fs::path path;
  std::vector<TensorInfo> tensors;
};

std::vector<SourceShard> read_shards(const fs::path& directory, TensorDirectory& tensors) {
  std::vector<SourceShard> shards;
  for (const fs::path& path : find_shards(directory)) {
    SafetensorsHeader header = read_safetensors_header(path);
    std::stable_sort(header.tensors.begin(), header.tensors.end(),
                     [](const TensorInfo& a, const TensorInfo& b) { return a.begin < b.begin; });
    for (const TensorInfo& tensor : header.tensors) {
      const auto [other, inserted] = tensors.emplace(tensor.name, KernelInput{path, tensor});
      if (!inserted) {
        throw Error("tensor '{}' is in '{}' and in '{}'", tensor.name, other->second.file.string(),
                    path.string());
      }
    }
    shards.push_back({path, std::move(header.tensors)});
  }
  return shards;
}

class Decider {
 public:
  Decider(std::vector<std::string> exclude, const Scheme& scheme, LayerSchemes layers, DType dtype)
      : exclude_(std::move(exclude)),
        scheme_(&scheme),
        layers_(std::move(layers)),
        model_dtype_(dtype) {}

  // For a tensor as it will be called: what happens to it, and by which scheme. `restored`: the
  // source stores it in another form than `dtype`.
  struct Decision {
    TensorAction action = TensorAction::kCopy;
    const Scheme* scheme = nullptr;
    bool excluded = false;  // a linear weight that a pattern excludes
  };
  Decision decide(const std::string& name, DType dtype, const Shape& shape, bool restored) {
    Decision decision;
    // What was restored and is not quantized goes to the model's dtype, and so does what Quark
    // takes by its name for a linear weight that it is not.
    const bool cast = is_float(dtype) && dtype != model_dtype_;
    const TensorAction as_it_is = restored && cast ? TensorAction::kCast : TensorAction::kCopy;
    decision.action = as_it_is;
    if (!is_linear_weight_name(name)) return decision;
    if (shape.size() < 2) {
      if (cast) decision.action = TensorAction::kCast;
      if (is_other_float(dtype)) fail(name, dtype, shape, "no conversion from this dtype");
      return decision;
    }
    const std::string module(module_of(name));
    const auto matches = [&](const std::string& pattern) { return fnmatch(module, pattern); };
    if (std::ranges::any_of(exclude_, matches)) {
      decision.excluded = true;
      if (is_other_float(dtype)) fail(name, dtype, shape, "no conversion from this dtype");
      return decision;
    }
    decision.action = TensorAction::kQuantize;
    decision.scheme = &scheme_of(module);
    if (!is_float(dtype)) {
      fail(name, dtype, shape, "expected BF16, F16 or F32");
    } else if (const auto reason = refusal(*decision.scheme, shape); !reason.empty()) {
      fail(name, dtype, shape, reason);
    }
    return decision;
  }

  bool is_excluded_weight(const std::string& name, const Shape& shape) const {
    if (!is_linear_weight_name(name) || shape.size() < 2) return false;
    const std::string module(module_of(name));
    return std::ranges::any_of(exclude_, [&](const std::string& p) { return fnmatch(module, p); });
  }

  DType model_dtype() const { return model_dtype_; }
  bool failed() const { return failures_ > 0; }

  void throw_failures() const {
    if (failures_ == 0) return;
    throw Error("{}{}", first_failure_,
                failures_ == 1 ? "" : fmt::format(" (and {} more tensors)", failures_ - 1));
  }

 private:
  void fail(const std::string& name, DType dtype, const Shape& shape, std::string_view reason) {
    if (failures_++ > 0) return;
    first_failure_ = fmt::format("tensor '{}' {} {} cannot be treated: {}", name, dtype_name(dtype),
                                 shape_text(shape), reason);
  }

  const Scheme& scheme_of(const std::string& module) const {
    for (const auto& [pattern, scheme] : layers_) {
      if (fnmatch(module, pattern)) return *scheme;
    }
    return *scheme_;
  }

  std::vector<std::string> exclude_;
  const Scheme* scheme_;
  LayerSchemes layers_;
  DType model_dtype_;
  std::string first_failure_;
  std::size_t failures_ = 0;
};

struct MxOptions {
  ScaleRule rule = ScaleRule::kEven;
  const SafetensorsFile* importance = nullptr;
};

MxOptions mx_options(const QuantizeOptions& options, const Scheme& scheme,
                     const LayerSchemes& layers, QuantizePlan& plan) {
  const auto is_mxfp4 = [](const Scheme& s) { return s.weight == WeightFormat::kMxfp4; };
  const bool used = is_mxfp4(scheme) || std::ranges::any_of(layers, [&](const auto& layer) {
                      return is_mxfp4(*layer.second);
                    });
  if (options.scale_rule != ScaleRule::kEven && !used) {
    throw UsageError("--scale_rule is for MXFP4 weights; the scheme {} has none", scheme.name);
  }
  MxOptions mx{options.scale_rule, nullptr};
  if (options.importance_file.empty()) return mx;
  if (options.scale_rule != ScaleRule::kSearch) {
    throw UsageError("--importance needs --scale_rule search");
  }
  plan.importance = std::make_shared<SafetensorsFile>(options.importance_file);
  mx.importance = plan.importance.get();
  return mx;
}

// The weights of a layer's columns; empty when the file has none for it.
std::span<const float> importance_of(const SafetensorsFile* file, const WeightSource& source) {
  const TensorInfo* info = file == nullptr ? nullptr : file->find(source.name());
  if (info == nullptr) return {};
  if (info->dtype != DType::kF32 || info->shape != Shape{source.shape().back()}) {
    throw Error("{}: tensor '{}' {} {}: expected F32 [{}]", file->path().string(), info->name,
                dtype_name(info->dtype), shape_text(info->shape), source.shape().back());
  }
  const auto columns = static_cast<std::size_t>(source.shape().back());
  const std::span<const float> values(file->view(*info).as<float>(), columns);
  const auto bad =
      std::ranges::find_if(values, [](float v) { return !std::isfinite(v) || v < 0.0f; });
  if (bad != values.end()) {
    throw Error("{}: tensor '{}' holds {} at index {}; expected finite values of at least 0",
                file->path().string(), info->name, *bad, bad - values.begin());
  }
  return values;
}

// Plans the tensors of one shard after the other; gathers what config.json says of them.
class Planner {
 public:
  Planner(const SourceFormats& formats, const std::vector<WeightConverter>& converters,
          bool keep_excluded, const MxOptions& mx, Decider decider)
      : mx_(mx),
        formats_(formats),
        converters_(converters),
        keep_excluded_(keep_excluded),
        decider_(std::move(decider)) {}

  PlannedShard plan(const SourceShard& source) {
    PlannedShard shard{source.path, source.path.filename().string(), {}, {}};
    for (const TensorInfo& tensor : source.tensors) {
      if (!formats_.is_companion(tensor.name)) plan_tensor({source.path, tensor}, shard.tensors);
    }
    std::vector<TensorSpec> specs;
    for (const PlannedTensor& tensor : shard.tensors) {
      specs.insert(specs.end(), tensor.kernel->outputs().begin(), tensor.kernel->outputs().end());
    }
    shard.layout = plan_safetensors(std::move(specs));
    return shard;
  }

  void throw_failures() const { decider_.throw_failures(); }
  std::vector<std::string>& excluded_modules() { return excluded_modules_; }
  // Modules that stay in the source's format.
  const std::map<std::string, Json>& kept_modules() const { return kept_modules_; }

 private:
  void plan_tensor(const KernelInput& stored, std::vector<PlannedTensor>& planned) {
    const std::string name = SourceFormats::weight_name(stored.tensor.name);
    const WeightConverter* converter = find_converter(converters_, name);
    if (keep_excluded_ && converter == nullptr && keep(name, stored, planned)) return;
    std::unique_ptr<WeightSource> source = formats_.restore(stored);
    if (source == nullptr) {
      const Decider::Decision decision =
          decider_.decide(name, stored.tensor.dtype, stored.tensor.shape, false);
      note_excluded(name, decision);
      add(stored.tensor, decision,
          make_copy_kernel(stored, {name, stored.tensor.dtype, stored.tensor.shape}), planned);
      return;
    }
    if (converter == nullptr) return plan_weight(stored, std::move(source), 1.0, planned);
    const auto whole = static_cast<double>(std::max<std::uint64_t>(source->elements(), 1));
    for (auto& part : convert(*converter, std::move(source))) {
      const double share = static_cast<double>(part->elements()) / whole;
      plan_weight(stored, std::move(part), share, planned);
    }
  }

  // `share` of the stored tensor's bytes.
  void plan_weight(const KernelInput& stored, std::unique_ptr<WeightSource> source, double share,
                   std::vector<PlannedTensor>& planned) {
    const bool restored = !is_float(stored.tensor.dtype);
    const std::string name = source->name();
    const Decider::Decision decision =
        decider_.decide(name, source->dtype(), source->shape(), restored);
    note_excluded(name, decision);
    if (decider_.failed()) return;  // refused as soon as all tensors were seen
    TensorInfo info{name, stored.tensor.dtype, source->shape(), 0, 0};
    info.end = static_cast<std::uint64_t>(static_cast<double>(stored.tensor.bytes()) * share);
    if (decision.action == TensorAction::kCopy && !restored && share == 1.0) {
      return add(info, decision, make_copy_kernel(stored, {name, info.dtype, info.shape}), planned);
    }
    auto encoder = decision.action == TensorAction::kQuantize
                       ? quantizing_encoder(*decision.scheme, *source)
                       : make_cast_encoder(*source, decision.action == TensorAction::kCast
                                                        ? decider_.model_dtype()
                                                        : source->dtype());
    add(info, decision, make_weight_kernel(std::move(source), std::move(encoder)), planned);
  }

  std::unique_ptr<WeightEncoder> quantizing_encoder(const Scheme& scheme,
                                                    const WeightSource& source) const {
    if (scheme.weight != WeightFormat::kMxfp4) return make_encoder(scheme, source);
    return make_mxfp4_encoder(source, mx_.rule, importance_of(mx_.importance, source));
  }

  bool keep(const std::string& name, const KernelInput& stored,
            std::vector<PlannedTensor>& planned) {
    if (!decider_.is_excluded_weight(name, stored.tensor.shape)) return false;
    auto kernels = formats_.keep(stored);
    for (auto& kernel : kernels) {
      TensorInfo info = kernel->inputs().front().tensor;
      info.name = kernel->outputs().front().name;
      add(info, {}, std::move(kernel), planned);
    }
    if (kernels.empty()) return false;
    const std::string module(module_of(name));
    kept_modules_[module] = formats_.kept_layer_config(module, stored);
    return true;
  }

  void note_excluded(const std::string& name, const Decider::Decision& decision) {
    if (decision.excluded) excluded_modules_.emplace_back(module_of(name));
  }

  static void add(TensorInfo info, const Decider::Decision& decision,
                  std::unique_ptr<TensorKernel> kernel, std::vector<PlannedTensor>& planned) {
    planned.push_back({std::move(info), decision.action,
                       decision.scheme == nullptr ? "" : std::string(decision.scheme->name),
                       std::move(kernel)});
  }

  MxOptions mx_;
  const SourceFormats& formats_;
  const std::vector<WeightConverter>& converters_;
  bool keep_excluded_;
  Decider decider_;
  std::vector<std::string> excluded_modules_;
  std::map<std::string, Json> kept_modules_;
};

// Each output once; nothing may take the place of another.
void check_outputs(const QuantizePlan& plan) {
  std::unordered_map<std::string_view, std::string_view> made_of;
  for (const PlannedShard& shard : plan.shards) {
    for (const PlannedTensor& tensor : shard.tensors) {
      for (const TensorSpec& output : tensor.kernel->outputs()) {
        const auto [other, inserted] = made_of.emplace(output.name, tensor.source.name);
        if (inserted) continue;
        throw Error(
            "tensor '{}' would be written twice, for '{}' and for '{}': is the source "
            "quantized without saying so in its config.json?",
            output.name, other->second, tensor.source.name);
      }
    }
  }
}

// A unit is worked on as a whole: eight rows where a format packs them together, for example.
void check_memory(const QuantizePlan& plan, std::uint64_t budget_bytes) {
  for (const PlannedShard& shard : plan.shards) {
    for (const PlannedTensor& tensor : shard.tensors) {
      const std::uint64_t needed = tensor.kernel->working_bytes({0, 1});
      if (needed <= std::max(budget_bytes, kLeastBudgetBytes)) continue;
      throw Error(
          "tensor '{}' {}: {} takes {} MiB of it at once, more than the memory budget of {} MiB",
          tensor.source.name, shape_text(tensor.source.shape),
          tensor.scheme.empty() ? action_name(tensor.action) : tensor.scheme, (needed >> 20) + 1,
          budget_bytes >> 20);
    }
  }
}

std::vector<std::string> notes_of(const Scheme& scheme, const LayerSchemes& layers) {
  std::vector<std::string> notes;
  const auto add = [&](const Scheme& used) {
    const std::string_view missing = missing_for_server(used);
    std::string note = fmt::format("{}: {}", used.name, missing);
    if (!missing.empty() && std::ranges::count(notes, note) == 0) notes.push_back(std::move(note));
  };
  add(scheme);
  for (const auto& [pattern, used] : layers) add(*used);
  return notes;
}

// What a template and the options say of the model.
struct Recipe {
  std::vector<std::string> exclude;
  std::vector<WeightConverter> converters;
};

Recipe recipe_of(const QuantizeOptions& options, const Json& config) {
  Recipe recipe{options.exclude_layers.value_or(std::vector<std::string>{}),
                options.weight_converters};
  const bool needs_template =
      !options.exclude_layers || (recipe.converters.empty() && options.template_converters);
  if (!needs_template) return recipe;
  const Json type = config.value("model_type", Json(""));
  const ModelTemplate chosen =
      select_template(options.template_name, type.is_string() ? type.get<std::string>() : "");
  if (!options.exclude_layers) recipe.exclude = chosen.exclude_layers_name;
  if (options.template_converters && recipe.converters.empty()) {
    recipe.converters = chosen.weight_converters;
  }
  return recipe;
}

}  // namespace

std::string_view action_name(TensorAction action) {
  switch (action) {
    case TensorAction::kCopy:
      return "copy";
    case TensorAction::kCast:
      return "cast";
    case TensorAction::kQuantize:
      return "quantize";
  }
  return "";
}

bool is_linear_weight_name(std::string_view tensor) {
  if (!tensor.ends_with(".weight")) return false;
  const std::string_view module = module_of(tensor);
  return !module.ends_with("norm") && module.find("embed") == std::string_view::npos;
}

QuantizePlan make_plan(const QuantizeOptions& options) {
  check_options_utf8(options);
  const Scheme& scheme = find_scheme(options.quant_scheme);
  const LayerSchemes layers = parse_layer_config(options.layer_config);
  if (!fs::is_directory(options.model_dir)) {
    throw Error("'{}' is not a directory", options.model_dir.string());
  }
  const fs::path config_path = options.model_dir / "config.json";
  Json config = parse_json(read_file(config_path, kMaxConfigBytes), config_path.string());
  if (!config.is_object()) throw Error("{}: expected an object", config_path.string());
  const DType dtype = model_dtype(config);
  TensorDirectory tensors;
  const std::vector<SourceShard> sources = read_shards(options.model_dir, tensors);
  check_index(options.model_dir, tensors);
  const SourceFormats formats(config, tensors, options.presharded_weights, dtype);
  const Recipe recipe = recipe_of(options, config);

  QuantizePlan plan;
  plan.notes = notes_of(scheme, layers);
  plan.converters = recipe.converters;
  const MxOptions mx = mx_options(options, scheme, layers, plan);
  Planner planner(formats, recipe.converters, options.keep_excluded_layers_as_original_model_state,
                  mx, Decider(recipe.exclude, scheme, layers, dtype));
  for (const SourceShard& source : sources) {
    plan.shards.push_back(planner.plan(source));
    const PlannedShard& shard = plan.shards.back();
    plan.source_bytes += fs::file_size(source.path);
    plan.output_bytes += shard.layout.file_bytes;
    plan.quantized_tensors += static_cast<std::size_t>(
        std::ranges::count(shard.tensors, TensorAction::kQuantize, &PlannedTensor::action));
  }
  planner.throw_failures();
  check_outputs(plan);
  check_memory(plan, options.memory_budget_bytes);
  std::vector<std::pair<std::string, Json>> layer_configs;
  for (const auto& [pattern, layer_scheme] : layers) {
    layer_configs.emplace_back(pattern, quark_layer_config(*layer_scheme));
  }
  for (const auto& [module, kept] : planner.kept_modules())
    layer_configs.emplace_back(module, kept);
  plan.config_text =
      quantized_config(
          std::move(config),
          quark_quantization_config(scheme, std::move(planner.excluded_modules()), layer_configs))
          .dump(4);
  return plan;
}

std::string plan_text(const QuantizePlan& plan) {
  struct Group {
    std::size_t tensors = 0;
    std::uint64_t source_bytes = 0;
    std::uint64_t output_bytes = 0;
  };
  // Name with numbers as N, action, dtype, shape.
  std::map<std::tuple<std::string, std::string_view, std::string_view, std::string>, Group> groups;
  for (const PlannedShard& shard : plan.shards) {
    for (const PlannedTensor& tensor : shard.tensors) {
      const TensorInfo& source = tensor.source;
      std::string name;
      for (const char c : source.name) {
        const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
        if (digit && name.ends_with(".N")) continue;
        name += digit && name.ends_with('.') ? 'N' : c;
      }
      Group& group = groups[{std::move(name), action_name(tensor.action), dtype_name(source.dtype),
                             shape_text(source.shape)}];
      ++group.tensors;
      group.source_bytes += source.bytes();
      for (const TensorSpec& spec : tensor.kernel->outputs()) {
        group.output_bytes +=
            static_cast<std::uint64_t>(num_elements(spec.shape)) * dtype_bytes(spec.dtype);
      }
    }
  }
  std::string text = fmt::format("{:<9}{:>7}  {:<5}{:<20}{:>11}  {:>11}  {}\n", "action", "count",
                                 "from", "shape", "bytes in", "bytes out", "tensors");
  for (const auto& [key, group] : groups) {
    const auto& [name, action, dtype, shape] = key;
    text += fmt::format("{:<9}{:>7}  {:<5}{:<20}{:>11}  {:>11}  {}\n", action, group.tensors, dtype,
                        shape, bytes_text(static_cast<double>(group.source_bytes)),
                        bytes_text(static_cast<double>(group.output_bytes)), name);
  }
  text += fmt::format("{} shards, {} tensors to quantize, {} -> {}\n", plan.shards.size(),
                      plan.quantized_tensors, bytes_text(static_cast<double>(plan.source_bytes)),
                      bytes_text(static_cast<double>(plan.output_bytes)));
  return text;
}

}  // namespace quern
