// See quantization_config.h.
#include "quern/checkpoint/quantization_config.h"

#include <fnmatch.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <unordered_set>

#include "quern/base/error.h"
#include "quern/checkpoint/config_reader.h"

namespace quern {
namespace {

constexpr std::string_view kRoot = "quantization_config";
constexpr std::string_view kRegexPrefix = "re:";
constexpr std::int64_t kGroupSize = 32;  // OCP MX v1.0, 5.2: MXFP4 block size

// The keys here may be null or empty, but nothing else.
void require_empty(const ConfigReader& reader, std::string_view key) {
  const Json* value = reader.value(key);
  if (value != nullptr && !value->empty() && *value != false) reader.fail(key, "is not supported");
}

void require_text(const ConfigReader& reader, std::string_view key, std::string_view expected) {
  std::string text;
  reader.read(key, text);
  if (text == expected) return;
  reader.fail(key, reader.has(key)
                       ? fmt::format("\"{}\" is not supported (only \"{}\" is)", text, expected)
                       : fmt::format("is missing (only \"{}\" is supported)", expected));
}

// A tensor spec must be MXFP4: 4-bit floats with an E8M0 scale per 32 along the last dimension.
void require_mxfp4(const ConfigReader& spec, bool dynamic) {
  require_text(spec, "dtype", "fp4");
  require_text(spec, "qscheme", "per_group");
  require_text(spec, "scale_format", "e8m0");
  std::int64_t group_size = 0;
  std::int64_t ch_axis = -1;
  bool is_dynamic = !dynamic;
  spec.read("group_size", group_size);
  spec.read("ch_axis", ch_axis, -8, 8);
  spec.read("is_dynamic", is_dynamic);
  if (group_size != kGroupSize) {
    spec.fail("group_size",
              fmt::format("{} is not supported (only {} is)", group_size, kGroupSize));
  }
  if (ch_axis != -1) spec.fail("ch_axis", fmt::format("{} is not supported (only -1 is)", ch_axis));
  if (is_dynamic != dynamic) {
    spec.fail("is_dynamic", fmt::format("expected {}, found {}", dynamic, is_dynamic));
  }
}

// A layer config: empty when its weight is not quantized.
std::optional<MxScheme> parse_layer(const ConfigReader& layer) {
  require_empty(layer, "output_tensors");
  require_empty(layer, "bias");
  const std::optional<ConfigReader> weight = layer.object("weight");
  const std::optional<ConfigReader> input = layer.object("input_tensors");
  if (!weight) {
    if (input) layer.fail("input_tensors", "is not supported without a quantized weight");
    return std::nullopt;
  }
  require_mxfp4(*weight, /*dynamic=*/false);
  if (!input) return MxScheme{MxScheme::Activation::kNone};
  require_mxfp4(*input, /*dynamic=*/true);
  if (input->has("scale_calculation_mode")) require_text(*input, "scale_calculation_mode", "even");
  return MxScheme{MxScheme::Activation::kDynamicMxfp4};
}

// Quark's rule of what is a linear layer, by name (file2file_quantization.py).
bool is_linear_name(std::string_view module) {
  return !module.ends_with("norm") && module.find("embed") == std::string_view::npos;
}

// vLLM quark.py: a key without '*' applies to a module whose name is a substring of the key.
bool layer_key_matches(const std::string& key, std::string_view module) {
  if (key.find('*') == std::string::npos) return key.find(module) != std::string::npos;
  return ::fnmatch(key.c_str(), std::string(module).c_str(), FNM_NOESCAPE) == 0;
}

struct FreeRegex {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using Regex = std::unique_ptr<pcre2_code, FreeRegex>;

// Anchored at the start only, as Python's re.match.
Regex compile_regex(std::string_view pattern, std::size_t position) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  Regex regex(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                            PCRE2_ANCHORED | PCRE2_UTF, &code, &offset, nullptr));
  if (regex != nullptr) return regex;
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  throw Error("{}.exclude[{}]: invalid regular expression '{}' at byte {}: {}", kRoot, position,
              pattern, offset, reinterpret_cast<const char*>(text.data()));
}

bool regex_matches(const Regex& regex, std::string_view text) {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create_from_pattern(regex.get(), nullptr), &pcre2_match_data_free);
  QUERN_CHECK(match != nullptr);
  const int found = pcre2_match(regex.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                0, 0, match.get(), nullptr);
  if (found >= 0) return true;
  if (found == PCRE2_ERROR_NOMATCH) return false;
  throw Error("{}.exclude: a regular expression failed on '{}' (PCRE2 error {})", kRoot, text,
              found);
}

}  // namespace

class QuantizationConfig::Excludes {
 public:
  explicit Excludes(const std::vector<std::string>& items) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (items[i].starts_with(kRegexPrefix)) {
        regexes_.push_back(
            compile_regex(std::string_view(items[i]).substr(kRegexPrefix.size()), i));
      } else {
        names_.insert(items[i]);
      }
    }
  }

  bool contains(std::string_view module) const {
    if (names_.contains(std::string(module))) return true;
    for (const Regex& regex : regexes_) {
      if (regex_matches(regex, module)) return true;
    }
    return false;
  }

 private:
  std::unordered_set<std::string> names_;
  std::vector<Regex> regexes_;
};

QuantizationConfig QuantizationConfig::parse(const Json& json, const std::string& source) {
  const ConfigReader reader(json, source, std::string(kRoot));
  QuantizationConfig config;
  require_text(reader, "quant_method", "quark");
  reader.read("quant_method", config.quant_method_);
  reader.read("version", config.version_);
  reader.read("exclude", config.exclude_);
  config.compiled_ =
      with_context(source, [&] { return std::make_shared<const Excludes>(config.exclude_); });

  const ConfigReader exported = reader.required_object("export");
  require_text(exported, "weight_format", "real_quantized");
  if (exported.has("pack_method")) require_text(exported, "pack_method", "reorder");
  require_empty(exported, "kv_cache_group");
  require_empty(reader, "kv_cache_quant_config");
  require_empty(reader, "softmax_quant_spec");
  require_empty(reader, "layer_type_quant_config");

  if (const auto global = reader.object("global_quant_config"))
    config.global_ = parse_layer(*global);
  if (const auto layers = reader.object("layer_quant_config")) {
    for (const auto& [pattern, value] : reader.value("layer_quant_config")->items()) {
      config.layers_.emplace_back(pattern, parse_layer(layers->required_object(pattern)));
    }
  }
  return config;
}

std::optional<MxScheme> QuantizationConfig::scheme_for(std::string_view module) const {
  if (!is_linear_name(module) || compiled_->contains(module)) return std::nullopt;
  for (const auto& [pattern, scheme] : layers_) {
    if (layer_key_matches(pattern, module)) return scheme;
  }
  return global_;
}

}  // namespace quern
