// Quantization schemes by Quark's names, and the quantization_config that describes them.
// Must never accept a scheme that the pipeline does not implement.
// Proved by tests/quantize/quark_schemes_test.cc and the comparison with Quark's own config.json.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/base/json.h"
#include "quern/quantize/weight_encoder.h"

namespace quern {

enum class WeightFormat : std::uint8_t {
  kMxfp4,
  kMxfp6E3M2,
  kMxfp6E2M3,
  kNvfp4,
  kFp8Tensor,
  kFp8Row,
  kInt8Tensor,
  kInt4Group,
  kInt4Row,
  kUint4Group,
  kUint4Row,
  kInt4Fp8,
};

// What the server shall do with activations, as the config describes it.
enum class ActivationFormat : std::uint8_t {
  kNone,
  kMxfp4,
  kMxfp6E3M2,
  kMxfp6E2M3,
  kNvfp4,
  kFp8Static,
  kFp8StaticFloat,  // as kFp8Static, with "scale_type": "float" as the weight
  kFp8Dynamic,
  kFp8Token,
  kInt8Static,
  kInt4Group,
};

struct Scheme {
  std::string_view name;
  WeightFormat weight;
  ActivationFormat activation = ActivationFormat::kNone;
  std::uint64_t group = 0;  // of the 4-bit integers
};

// The names that Quark knows, in its order of registration.
std::span<const std::string_view> quark_scheme_names();
std::span<const Scheme> supported_schemes();

// Throws with Quark's text for an unknown name, and says so when only Quark implements it.
const Scheme& find_scheme(std::string_view name);

// "weights fp4 per_group 32; activations fp4 per_group 32, dynamic", in the config's own words.
std::string scheme_text(const Scheme& scheme);

// Why the weight cannot be written by the scheme; empty when it can.
std::string_view refusal(const Scheme& scheme, const Shape& shape);
std::unique_ptr<WeightEncoder> make_encoder(const Scheme& scheme, const WeightSource& source);

// What a server will miss in the output, since file-to-file quantization sees no activations and
// writes what Quark writes; empty when it is complete.
std::string_view missing_for_server(const Scheme& scheme);

// Layers that match a pattern (Python's fnmatch, whole module names) get the scheme instead of the
// global one. As in Quark: exclusion wins, then the first pattern; a pattern given again keeps its
// place and takes the new scheme.
using LayerSchemes = std::vector<std::pair<std::string, const Scheme*>>;
LayerSchemes parse_layer_config(const std::vector<std::string>& pattern_equals_scheme);

// One layer's entry: input_tensors, output_tensors, weight, bias, target_device.
Json quark_layer_config(const Scheme& scheme);

// The entry for a layer that stays in the block FP8 of its source, described by the source's own
// quantization_config. `e8m0`: scales are powers of two.
Json quark_block_fp8_layer_config(const Json& source, bool e8m0);

// The value of "quantization_config", key for key as Quark writes it. `exclude` are exact module
// names; `layers` the entries of layer_quant_config in order.
Json quark_quantization_config(const Scheme& scheme, std::vector<std::string> exclude,
                               const std::vector<std::pair<std::string, Json>>& layers);

// config.json of the output: every "quantization_config" of the source removed (at any depth of
// objects), the new one last.
Json quantized_config(Json source, Json quantization_config);

}  // namespace quern
