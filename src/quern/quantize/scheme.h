// Quantization schemes by Quark's names, and the quantization_config that describes them.
// Must never accept a scheme that the pipeline does not implement.
// Proved by tests/quantize/scheme_test.cc and the comparison with Quark's own config.json.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"

namespace quern {

// All implemented schemes store weights as MXFP4; they differ in what happens to activations at run
// time.
struct Scheme {
  std::string_view name;
  bool quantizes_activations = false;
};

// The names that Quark knows, in its order of registration.
std::span<const std::string_view> quark_scheme_names();
std::span<const Scheme> supported_schemes();

// Throws with Quark's text for an unknown name, and says so when only Quark implements it.
const Scheme& find_scheme(std::string_view name);

// The value of "quantization_config", key for key as Quark writes it. `exclude` are exact module
// names.
Json quark_quantization_config(const Scheme& scheme, std::vector<std::string> exclude);

// config.json of the output: every "quantization_config" of the source removed (at any depth of
// objects), the new one last.
Json quantized_config(Json source, Json quantization_config);

}  // namespace quern
