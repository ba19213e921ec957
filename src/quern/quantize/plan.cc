// See plan.h. Rules: AMD Quark 0.13, quantization/file2file_quantization.py.
#include "quern/quantize/plan.h"

#include <algorithm>
#include <cctype>
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

void refuse_quantized_source(const Json& config) {
  for (const Json* object :
       {&config, config.contains("text_config") ? &config["text_config"] : nullptr}) {
    if (object == nullptr || !object->is_object() || !object->contains("quantization_config"))
      continue;
    const Json& quantization = (*object)["quantization_config"];
    const std::string method =
        quantization.is_object() ? quantization.value("quant_method", Json("")).dump() : "null";
    throw Error(
        "the source is already quantized (quantization_config.quant_method {}); quantize the "
        "BF16 checkpoint instead",
        method);
  }
}

std::vector<fs::path> find_shards(const fs::path& directory) {
  std::vector<fs::path> shards;
  std::map<std::string, fs::path> by_name;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file() || entry.path().extension() != ".safetensors") continue;
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
void check_index(const fs::path& directory,
                 const std::unordered_map<std::string, fs::path>& where) {
  const fs::path path = directory / "model.safetensors.index.json";
  if (!fs::exists(path)) return;
  const auto index = parse_safetensors_index(read_file(path, kMaxIndexBytes), path.string());
  for (const auto& [tensor, file] : index.weight_map) {
    if (!where.contains(tensor)) {
      throw Error("{}: tensor '{}' of '{}' is in no shard; is the download complete?",
                  path.string(), tensor, file);
    }
  }
}

class Decider {
 public:
  Decider(std::vector<std::string> exclude, const Scheme& scheme, LayerSchemes layers, DType dtype)
      : exclude_(std::move(exclude)),
        scheme_(&scheme),
        layers_(std::move(layers)),
        model_dtype_(dtype) {}

  PlannedTensor decide(TensorInfo info) {
    PlannedTensor planned{std::move(info), TensorAction::kCopy, {}, nullptr};
    const TensorInfo& tensor = planned.source;
    if (!is_linear_weight_name(tensor.name)) return planned;
    if (tensor.shape.size() < 2) {
      // Quark brings what its name rule takes for a linear weight, but is not, to the model's
      // dtype.
      if (is_float(tensor.dtype) && tensor.dtype != model_dtype_)
        planned.action = TensorAction::kCast;
      if (is_other_float(tensor.dtype)) fail(tensor, "no conversion from this dtype");
      return planned;
    }
    const std::string module(module_of(tensor.name));
    const auto matches = [&](const std::string& pattern) { return fnmatch(module, pattern); };
    if (std::any_of(exclude_.begin(), exclude_.end(), matches)) {
      excluded_modules_.push_back(module);
      if (is_other_float(tensor.dtype)) fail(tensor, "no conversion from this dtype");
      return planned;
    }
    planned.action = TensorAction::kQuantize;
    const Scheme& scheme = scheme_of(module);
    planned.scheme = scheme.name;
    if (!is_float(tensor.dtype)) {
      fail(tensor, "expected BF16, F16 or F32");
    } else if (const auto reason = refusal(scheme, tensor.shape); !reason.empty()) {
      fail(tensor, reason);
    }
    return planned;
  }

  DType model_dtype() const { return model_dtype_; }
  bool failed() const { return failures_ > 0; }
  std::vector<std::string> excluded_modules() && { return std::move(excluded_modules_); }

  void throw_failures() const {
    if (failures_ == 0) return;
    throw Error("{}{}", first_failure_,
                failures_ == 1 ? "" : fmt::format(" (and {} more tensors)", failures_ - 1));
  }

 private:
  void fail(const TensorInfo& tensor, std::string_view reason) {
    if (failures_++ > 0) return;
    first_failure_ = fmt::format("tensor '{}' {} {} cannot be treated: {}", tensor.name,
                                 dtype_name(tensor.dtype), shape_text(tensor.shape), reason);
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
  std::vector<std::string> excluded_modules_;
  std::string first_failure_;
  std::size_t failures_ = 0;
};

std::unique_ptr<TensorKernel> make_kernel(const fs::path& file, const PlannedTensor& planned,
                                          DType model_dtype) {
  const TensorInfo& tensor = planned.source;
  if (planned.action == TensorAction::kCopy) {
    return make_copy_kernel({file, tensor}, {tensor.name, tensor.dtype, tensor.shape});
  }
  auto source = make_plain_source({file, tensor});
  auto encoder = planned.action == TensorAction::kCast
                     ? make_cast_encoder(*source, model_dtype)
                     : make_encoder(find_scheme(planned.scheme), *source);
  return make_weight_kernel(std::move(source), std::move(encoder));
}

PlannedShard plan_shard(const fs::path& path, Decider& decider) {
  SafetensorsHeader header = read_safetensors_header(path);
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) { return a.begin < b.begin; });
  PlannedShard shard{path, path.filename().string(), {}, {}};
  std::vector<TensorSpec> specs;
  for (TensorInfo& info : header.tensors) {
    PlannedTensor planned = decider.decide(std::move(info));
    if (decider.failed()) continue;  // refused as soon as all tensors were seen
    planned.kernel = make_kernel(path, planned, decider.model_dtype());
    for (const TensorSpec& spec : planned.kernel->outputs()) specs.push_back(spec);
    shard.tensors.push_back(std::move(planned));
  }
  shard.layout = plan_safetensors(std::move(specs));
  return shard;
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
  const Scheme& scheme = find_scheme(options.quant_scheme);
  const LayerSchemes layers = parse_layer_config(options.layer_config);
  if (!fs::is_directory(options.model_dir)) {
    throw Error("'{}' is not a directory", options.model_dir.string());
  }
  const fs::path config_path = options.model_dir / "config.json";
  Json config = parse_json(read_file(config_path, kMaxConfigBytes), config_path.string());
  if (!config.is_object()) throw Error("{}: expected an object", config_path.string());
  refuse_quantized_source(config);
  std::vector<std::string> exclude;
  if (options.exclude_layers) {
    exclude = *options.exclude_layers;
  } else {
    const Json type = config.value("model_type", Json(""));
    exclude =
        select_template(options.template_name, type.is_string() ? type.get<std::string>() : "")
            .exclude_layers_name;
  }

  QuantizePlan plan;
  plan.notes = notes_of(scheme, layers);
  Decider decider(std::move(exclude), scheme, layers, model_dtype(config));
  std::unordered_map<std::string, fs::path> where;
  for (const fs::path& path : find_shards(options.model_dir)) {
    plan.shards.push_back(plan_shard(path, decider));
    const PlannedShard& shard = plan.shards.back();
    plan.source_bytes += fs::file_size(path);
    plan.output_bytes += shard.layout.file_bytes;
    for (const PlannedTensor& tensor : shard.tensors) {
      plan.quantized_tensors += tensor.action == TensorAction::kQuantize;
      const auto [other, inserted] = where.emplace(tensor.source.name, path);
      if (!inserted) {
        throw Error("tensor '{}' is in '{}' and in '{}'", tensor.source.name,
                    other->second.string(), path.string());
      }
    }
  }
  decider.throw_failures();
  for (const PlannedShard& shard : plan.shards) {
    for (const PlannedTensor& tensor : shard.tensors) {
      for (const TensorSpec& output : tensor.kernel->outputs()) {
        if (output.name != tensor.source.name && where.contains(output.name)) {
          throw Error("tensor '{}' exists already: the source is quantized", output.name);
        }
      }
    }
  }
  check_index(options.model_dir, where);
  std::vector<std::pair<std::string, Json>> layer_configs;
  for (const auto& [pattern, layer_scheme] : layers) {
    layer_configs.emplace_back(pattern, quark_layer_config(*layer_scheme));
  }
  plan.config_text =
      quantized_config(
          std::move(config),
          quark_quantization_config(scheme, std::move(decider).excluded_modules(), layer_configs))
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
