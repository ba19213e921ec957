// See scheme.h. Source of the names and keys: AMD Quark 0.13, quantization/config/template.py
// (QuantizationSchemeCollection), config.py (QConfig.to_dict) and file2file_quantization.py.
#include "quern/quantize/scheme.h"

#include <algorithm>
#include <array>

#include "quern/base/error.h"
#include "quern/base/version.h"

namespace quern {
namespace {

constexpr auto kQuarkSchemes = std::to_array<std::string_view>({"int4_wo_32",
                                                                "int4_wo_64",
                                                                "int4_wo_128",
                                                                "int4_wo_per_channel",
                                                                "int4_wa_64",
                                                                "uint4_wo_32",
                                                                "uint4_wo_64",
                                                                "uint4_wo_128",
                                                                "uint4_wo_per_channel",
                                                                "int8",
                                                                "fp8",
                                                                "ptpc_fp8",
                                                                "mxfp4",
                                                                "mxfp4_weight_only",
                                                                "mxfp6_e3m2",
                                                                "mxfp6_e2m3",
                                                                "mxfp4_mxfp6_e2m3",
                                                                "mxfp4_fp8",
                                                                "amdfp4",
                                                                "amdfp4_g32",
                                                                "int4_fp8",
                                                                "mx6",
                                                                "mx9",
                                                                "bfp16",
                                                                "nvfp4",
                                                                "fp4_block16_scale_e4m3",
                                                                "amdfp4_global16",
                                                                "amdfp4_global32"});

using A = ActivationFormat;
using W = WeightFormat;

constexpr auto kSupported = std::to_array<Scheme>({
    {"int4_wo_32", W::kInt4Group, A::kNone, 32},
    {"int4_wo_64", W::kInt4Group, A::kNone, 64},
    {"int4_wo_128", W::kInt4Group, A::kNone, 128},
    {"int4_wo_per_channel", W::kInt4Row},
    {"int4_wa_64", W::kInt4Group, A::kInt4Group, 64},
    {"uint4_wo_32", W::kUint4Group, A::kNone, 32},
    {"uint4_wo_64", W::kUint4Group, A::kNone, 64},
    {"uint4_wo_128", W::kUint4Group, A::kNone, 128},
    {"uint4_wo_per_channel", W::kUint4Row},
    {"int8", W::kInt8Tensor, A::kInt8Static},
    {"fp8", W::kFp8Tensor, A::kFp8StaticFloat},
    {"ptpc_fp8", W::kFp8Row, A::kFp8Token},
    {"mxfp4", W::kMxfp4, A::kMxfp4},
    {"mxfp4_weight_only", W::kMxfp4},
    {"mxfp6_e3m2", W::kMxfp6E3M2, A::kMxfp6E3M2},
    {"mxfp6_e2m3", W::kMxfp6E2M3, A::kMxfp6E2M3},
    {"mxfp4_mxfp6_e2m3", W::kMxfp4, A::kMxfp6E2M3},
    {"mxfp4_fp8", W::kMxfp4, A::kFp8Static},
    {"int4_fp8", W::kInt4Fp8, A::kFp8Dynamic},
    {"nvfp4", W::kNvfp4, A::kNvfp4},
    {"fp4_block16_scale_e4m3", W::kNvfp4, A::kNvfp4},
});

// Fields of a tensor's config that differ between schemes; null where absent.
struct TensorConfig {
  std::string_view dtype;
  bool is_dynamic = false;
  std::string_view qscheme;
  Json ch_axis = nullptr;
  Json group_size = nullptr;
  Json symmetric = nullptr;
  Json scale_type = nullptr;
  Json scale_format = nullptr;
  Json scale_calculation_mode = nullptr;
  std::string_view observer_cls;
  bool is_scale_quant = false;
};

Json tensor_config(const TensorConfig& config) {
  return Json{{"dtype", config.dtype},
              {"is_dynamic", config.is_dynamic},
              {"qscheme", config.qscheme},
              {"ch_axis", config.ch_axis},
              {"group_size", config.group_size},
              {"block_size", nullptr},
              {"symmetric", config.symmetric},
              {"round_method", "half_even"},
              {"scale_type", config.scale_type},
              {"zero_point_type", "int32"},
              {"scale_format", config.scale_format},
              {"scale_calculation_mode", config.scale_calculation_mode},
              {"mx_element_dtype", nullptr},
              {"observer_cls", config.observer_cls},
              {"is_scale_quant", config.is_scale_quant},
              {"enable_buffer_reuse", false},
              {"max_input_numel", 4194304}};
}

Json mx_config(std::string_view dtype, bool is_dynamic) {
  return tensor_config({.dtype = dtype,
                        .is_dynamic = is_dynamic,
                        .qscheme = "per_group",
                        .ch_axis = -1,
                        .group_size = 32,
                        .scale_type = "float",
                        .scale_format = "e8m0",
                        .scale_calculation_mode = "even",
                        .observer_cls = "PerBlockMXObserver"});
}

Json per_tensor_config(std::string_view dtype, bool is_dynamic, Json scale_type,
                       bool is_scale_quant = false) {
  return tensor_config({.dtype = dtype,
                        .is_dynamic = is_dynamic,
                        .qscheme = "per_tensor",
                        .symmetric = true,
                        .scale_type = std::move(scale_type),
                        .observer_cls = "PerTensorMinMaxObserver",
                        .is_scale_quant = is_scale_quant});
}

Json per_channel_config(std::string_view dtype, bool is_dynamic, int axis, bool symmetric = true,
                        std::string_view scale_type = "float") {
  return tensor_config({.dtype = dtype,
                        .is_dynamic = is_dynamic,
                        .qscheme = "per_channel",
                        .ch_axis = axis,
                        .symmetric = symmetric,
                        .scale_type = scale_type,
                        .observer_cls = "PerChannelMinMaxObserver"});
}

Json integer_group_config(std::string_view dtype, bool is_dynamic, std::uint64_t group,
                          bool symmetric) {
  return tensor_config({.dtype = dtype,
                        .is_dynamic = is_dynamic,
                        .qscheme = "per_group",
                        .ch_axis = -1,
                        .group_size = group,
                        .symmetric = symmetric,
                        .scale_type = "float",
                        .observer_cls = "PerGroupMinMaxObserver"});
}

// Two stages: the groups, then their scales.
Json nvfp4_config(bool is_dynamic) {
  return Json::array({tensor_config({.dtype = "fp4",
                                     .is_dynamic = is_dynamic,
                                     .qscheme = "per_group",
                                     .ch_axis = -1,
                                     .group_size = 16,
                                     .scale_type = "float32",
                                     .scale_format = "float32",
                                     .observer_cls = "PerBlockMXObserver"}),
                      per_tensor_config("fp8_e4m3", false, "float32", true)});
}

Json weight_config(const Scheme& scheme) {
  switch (scheme.weight) {
    case W::kMxfp4:
      return mx_config("fp4", false);
    case W::kMxfp6E3M2:
      return mx_config("fp6_e3m2", false);
    case W::kMxfp6E2M3:
      return mx_config("fp6_e2m3", false);
    case W::kNvfp4:
      return nvfp4_config(false);
    case W::kFp8Tensor:
      return per_tensor_config("fp8_e4m3", false, "float");
    case W::kFp8Row:
      return per_channel_config("fp8_e4m3", false, 0);
    case W::kInt8Tensor:
      return per_tensor_config("int8", false, "float");
    case W::kInt4Group:
      return integer_group_config("int4", false, scheme.group, true);
    case W::kInt4Row:
      return per_channel_config("int4", false, 0);
    case W::kUint4Group:
      return integer_group_config("uint4", false, scheme.group, false);
    case W::kUint4Row:
      return per_channel_config("uint4", false, 0, false);
    case W::kInt4Fp8:
      return Json::array({per_tensor_config("fp8_e4m3", false, "float32"),
                          per_channel_config("int4", false, 0, true, "float32")});
  }
  return nullptr;
}

Json activation_config(const Scheme& scheme) {
  switch (scheme.activation) {
    case A::kNone:
      return nullptr;
    case A::kMxfp4:
      return mx_config("fp4", true);
    case A::kMxfp6E3M2:
      return mx_config("fp6_e3m2", true);
    case A::kMxfp6E2M3:
      return mx_config("fp6_e2m3", true);
    case A::kNvfp4:
      return nvfp4_config(true);
    case A::kFp8Static:
      return per_tensor_config("fp8_e4m3", false, nullptr);
    case A::kFp8StaticFloat:
      return per_tensor_config("fp8_e4m3", false, "float");
    case A::kFp8Dynamic:
      return per_tensor_config("fp8_e4m3", true, "float32");
    case A::kFp8Token:
      return per_channel_config("fp8_e4m3", true, 1);
    case A::kInt8Static:
      return per_tensor_config("int8", false, "float");
    case A::kInt4Group:
      return integer_group_config("int4", true, scheme.group, true);
  }
  return nullptr;
}

// Two stages are the codes and their scales, or one format of another.
std::string tensor_text(const Json& spec) {
  if (spec.is_array()) return fmt::format("{}, {}", tensor_text(spec[0]), tensor_text(spec[1]));
  std::string text =
      fmt::format("{} {}", spec["dtype"].get<std::string>(), spec["qscheme"].get<std::string>());
  if (!spec["group_size"].is_null()) text += fmt::format(" {}", spec["group_size"].dump());
  return text;
}

void remove_quantization_configs(Json& object) {
  object.erase("quantization_config");
  for (auto& [key, value] : object.items()) {
    if (value.is_object()) remove_quantization_configs(value);
  }
}

}  // namespace

std::span<const std::string_view> quark_scheme_names() { return kQuarkSchemes; }
std::span<const Scheme> supported_schemes() { return kSupported; }

std::string scheme_text(const Scheme& scheme) {
  const Json activations = activation_config(scheme);
  std::string text = "weights " + tensor_text(weight_config(scheme));
  if (activations.is_null()) return text + "; activations as they are";
  const Json& first = activations.is_array() ? activations.front() : activations;
  return fmt::format("{}; activations {}, {}", text, tensor_text(activations),
                     first["is_dynamic"].get<bool>() ? "dynamic" : "static");
}

const Scheme& find_scheme(std::string_view name) {
  for (const Scheme& scheme : kSupported) {
    if (scheme.name == name) return scheme;
  }
  if (std::find(kQuarkSchemes.begin(), kQuarkSchemes.end(), name) == kQuarkSchemes.end()) {
    throw Error("Unsupported quantization scheme: {}", name);
  }
  std::string supported;
  for (const Scheme& scheme : kSupported) {
    supported += (supported.empty() ? "" : ", ") + std::string(scheme.name);
  }
  throw Error("Quark knows the quantization scheme '{}', this program does not; it has {}", name,
              supported);
}

std::string_view refusal(const Scheme& scheme, const Shape& shape) {
  const std::int64_t columns = shape.back();
  const bool is_mx = scheme.weight == W::kMxfp4 || scheme.weight == W::kMxfp6E3M2 ||
                     scheme.weight == W::kMxfp6E2M3;
  if (columns == 0 || (!is_mx && std::ranges::count(shape, 0) > 0)) return "it has no elements";
  switch (scheme.weight) {
    case W::kMxfp4:
    case W::kMxfp6E3M2:
    case W::kMxfp6E2M3:
      if (columns % 32 == 0) return "";
      return "the last dimension is not a multiple of 32; exclude the layer";
    case W::kNvfp4:
      if (columns % 16 == 0) return "";
      return "the last dimension is not a multiple of 16; exclude the layer";
    case W::kFp8Tensor:
    case W::kFp8Row:
      return "";
    case W::kInt4Group:
    case W::kUint4Group:
      if (columns % static_cast<std::int64_t>(scheme.group) != 0) {
        return "the last dimension is not a multiple of the group; exclude the layer";
      }
      [[fallthrough]];
    case W::kInt8Tensor:
    case W::kInt4Row:
    case W::kUint4Row:
    case W::kInt4Fp8:
      break;
  }
  return shape.size() == 2 ? "" : "integer schemes need two dimensions; exclude the layer";
}

std::unique_ptr<WeightEncoder> make_encoder(const Scheme& scheme, const WeightSource& source) {
  switch (scheme.weight) {
    case W::kMxfp4:
      return make_mxfp4_encoder(source);
    case W::kMxfp6E3M2:
      return make_mxfp6_encoder(source, kE3M2);
    case W::kMxfp6E2M3:
      return make_mxfp6_encoder(source, kE2M3);
    case W::kNvfp4:
      return make_nvfp4_encoder(source);
    case W::kFp8Tensor:
      return make_fp8_encoder(source, ScaleOf::kTensor);
    case W::kFp8Row:
      return make_fp8_encoder(source, ScaleOf::kFirstDimension);
    case W::kInt8Tensor:
      return make_int8_encoder(source);
    case W::kInt4Group:
      return make_int4_group_encoder(source, true, scheme.group);
    case W::kInt4Row:
      return make_int4_row_encoder(source, true);
    case W::kUint4Group:
      return make_int4_group_encoder(source, false, scheme.group);
    case W::kUint4Row:
      return make_int4_row_encoder(source, false);
    case W::kInt4Fp8:
      return make_int4_fp8_encoder(source);
  }
  QUERN_CHECK(false, "scheme {}", scheme.name);
}

std::string_view missing_for_server(const Scheme& scheme) {
  switch (scheme.weight) {
    case W::kUint4Group:
    case W::kUint4Row:
      return "Quark's file-to-file output has no zero points for uint4: the weights cannot be "
             "decoded from it";
    case W::kInt4Group:
    case W::kInt4Row:
      return "nibbles are in plain order, as Quark writes them file to file, although the config "
             "says pack_method reorder: a server that follows the config reads them in the wrong "
             "order";
    default:
      break;
  }
  switch (scheme.activation) {
    case A::kFp8Static:
    case A::kFp8StaticFloat:
    case A::kInt8Static:
      return "the config asks for static activation scales, which need calibration: there is no "
             "input_scale in the output, a server must calibrate or quantize activations "
             "dynamically";
    case A::kNvfp4:
      return "the global scale of activations needs calibration: there is no input_scale in the "
             "output, a server must calibrate or take 1";
    default:
      return "";
  }
}

LayerSchemes parse_layer_config(const std::vector<std::string>& pattern_equals_scheme) {
  LayerSchemes layers;
  for (const std::string& entry : pattern_equals_scheme) {
    const std::size_t equals = entry.rfind('=');
    if (equals == std::string::npos || equals == 0) {
      throw UsageError("--layer_config: expected PATTERN=SCHEME, found '{}'", entry);
    }
    const std::string pattern = entry.substr(0, equals);
    const Scheme& scheme = find_scheme(entry.substr(equals + 1));
    const auto known = std::ranges::find(layers, pattern, &LayerSchemes::value_type::first);
    if (known != layers.end()) {
      known->second = &scheme;
    } else {
      layers.emplace_back(pattern, &scheme);
    }
  }
  return layers;
}

Json quark_layer_config(const Scheme& scheme) {
  return {{"input_tensors", activation_config(scheme)},
          {"output_tensors", nullptr},
          {"weight", weight_config(scheme)},
          {"bias", nullptr},
          {"target_device", nullptr}};
}

Json quark_block_fp8_layer_config(const Json& source, bool e8m0) {
  const auto value = [&](const char* key, Json missing) {
    return source.contains(key) ? source[key] : missing;
  };
  const auto text = [&](const char* key) {
    const Json found = value(key, "");
    return found.is_string() ? found.get<std::string>() : found.dump();
  };
  constexpr std::string_view kOption = "keep_excluded_layers_as_original_model_state";
  const std::string format = text("fmt");
  const bool is_e5m2 = format == "e5m2" || format == "float8_e5m2";
  if (!is_e5m2 && !format.empty() && format != "e4m3" && format != "float8_e4m3fn" &&
      format != "float8_e4m3") {
    throw Error(
        "{}: Unsupported quantization format 'fmt={}' in the model's quantization_config; "
        "e4m3 and e5m2 are supported",
        kOption, format);
  }
  if (text("activation_scheme") != "dynamic") {
    throw Error(
        "{}: Only dynamic activation scheme is supported, but got activation_scheme='{}' "
        "in the model's quantization_config",
        kOption, text("activation_scheme"));
  }
  const Json block = value("weight_block_size", nullptr);
  if (!block.is_array() || block.size() != 2) {
    throw Error("{}: 'weight_block_size' is not set in the model's quantization_config", kOption);
  }
  e8m0 = e8m0 || text("scale_fmt") == "ue8m0" || text("scale_fmt") == "e8m0";
  TensorConfig weight{.dtype = is_e5m2 ? "fp8_e5m2" : "fp8_e4m3",
                      .qscheme = "per_block",
                      .ch_axis = value("ch_axis", nullptr),
                      .group_size = value("group_size", nullptr),
                      .symmetric = value("symmetric", true),
                      .scale_type = value("scale_type", e8m0 ? "float8_e8m0fnu" : "float32"),
                      .observer_cls = "PerBlock2DMinMaxObserver"};
  TensorConfig input = weight;
  input.is_dynamic = true;
  input.qscheme = "per_group";
  input.ch_axis = -1;
  input.group_size = block[1];
  input.scale_type = value("scale_type", nullptr);
  input.observer_cls = "PerGroupMinMaxObserver";
  Json weight_json = tensor_config(weight);
  weight_json["block_size"] = block;
  Json input_json = tensor_config(input);
  for (Json* json : {&weight_json, &input_json}) {
    (*json)["round_method"] = value("round_method", "half_even");
  }
  return {{"input_tensors", input_json},
          {"output_tensors", nullptr},
          {"weight", weight_json},
          {"bias", nullptr},
          {"target_device", nullptr}};
}

Json quark_quantization_config(const Scheme& scheme, std::vector<std::string> exclude,
                               const std::vector<std::pair<std::string, Json>>& layers) {
  std::sort(exclude.begin(), exclude.end());
  Json layer_configs = Json::object();
  for (const auto& [pattern, config] : layers) layer_configs[pattern] = config;
  Json config;
  config["global_quant_config"] = quark_layer_config(scheme);
  config["exclude"] = std::move(exclude);
  config["algo_config"] = nullptr;
  config["softmax_quant_spec"] = nullptr;
  config["quant_method"] = "quark";
  config["layer_type_quant_config"] = Json::object();
  config["layer_quant_config"] = std::move(layer_configs);
  config["kv_cache_quant_config"] = Json::object();
  config["kv_cache_post_rope"] = false;
  config["quant_mode"] = "eager_mode";
  config["version"] = fmt::format("quern-{}", version());
  config["export"] = {{"kv_cache_group", Json::array()},
                      {"min_kv_scale", 0.0},
                      {"pack_method", "reorder"},
                      {"weight_format", "real_quantized"},
                      {"weight_merge_groups", nullptr}};
  return config;
}

Json quantized_config(Json source, Json quantization_config) {
  remove_quantization_configs(source);
  source["quantization_config"] = std::move(quantization_config);
  return source;
}

}  // namespace quern
