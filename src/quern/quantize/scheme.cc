// See scheme.h. Source of the names and keys: AMD Quark 0.13, quantization/config/template.py
// (QuantizationSchemeCollection), config.py (QConfig.to_dict) and file2file_quantization.py.
#include "quern/quantize/scheme.h"

#include <algorithm>
#include <array>

#include "quern/base/error.h"

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

constexpr std::array<Scheme, 2> kSupported = {{{"mxfp4", true}, {"mxfp4_weight_only", false}}};

// Versions of Quark that wrote the same bytes are named by it; ours names ours.
constexpr std::string_view kVersion = "quern-0.1.0";

Json mxfp4_tensor_config(bool is_dynamic) {
  return Json{{"dtype", "fp4"},
              {"is_dynamic", is_dynamic},
              {"qscheme", "per_group"},
              {"ch_axis", -1},
              {"group_size", 32},
              {"block_size", nullptr},
              {"symmetric", nullptr},
              {"round_method", "half_even"},
              {"scale_type", "float"},
              {"zero_point_type", "int32"},
              {"scale_format", "e8m0"},
              {"scale_calculation_mode", "even"},
              {"mx_element_dtype", nullptr},
              {"observer_cls", "PerBlockMXObserver"},
              {"is_scale_quant", false},
              {"enable_buffer_reuse", false},
              {"max_input_numel", 4194304}};
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

const Scheme& find_scheme(std::string_view name) {
  for (const Scheme& scheme : kSupported) {
    if (scheme.name == name) return scheme;
  }
  if (std::find(kQuarkSchemes.begin(), kQuarkSchemes.end(), name) == kQuarkSchemes.end()) {
    throw Error("Unsupported quantization scheme: {}", name);
  }
  throw Error(
      "Quark knows the quantization scheme '{}', this program does not support it yet; it "
      "supports mxfp4 and mxfp4_weight_only",
      name);
}

Json quark_quantization_config(const Scheme& scheme, std::vector<std::string> exclude) {
  std::sort(exclude.begin(), exclude.end());
  Json config;
  config["global_quant_config"] = {
      {"input_tensors", scheme.quantizes_activations ? mxfp4_tensor_config(true) : Json(nullptr)},
      {"output_tensors", nullptr},
      {"weight", mxfp4_tensor_config(false)},
      {"bias", nullptr},
      {"target_device", nullptr}};
  config["exclude"] = std::move(exclude);
  config["algo_config"] = nullptr;
  config["softmax_quant_spec"] = nullptr;
  config["quant_method"] = "quark";
  config["layer_type_quant_config"] = Json::object();
  config["layer_quant_config"] = Json::object();
  config["kv_cache_quant_config"] = Json::object();
  config["kv_cache_post_rope"] = false;
  config["quant_mode"] = "eager_mode";
  config["version"] = kVersion;
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
