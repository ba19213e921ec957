// The `quantization_config` of a Quark checkpoint, reduced to what a reader of its weights must
// know. Must never accept a scheme that no code here decodes: anything else is an Error naming the
// key. Proved by tests/checkpoint/quantization_config_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/base/json.h"

namespace quern {

// Weights are MXFP4 (E2M1 elements, E8M0 scale per 32 along the input dimension).
struct MxScheme {
  enum class Activation { kNone, kDynamicMxfp4 };
  Activation activation = Activation::kDynamicMxfp4;

  bool operator==(const MxScheme&) const = default;
};

// Questions are answered as vLLM does (quantization/quark/quark.py). Immutable, copyable,
// thread-safe.
class QuantizationConfig {
 public:
  // `json` is the value of "quantization_config" in the file `source`, which errors name.
  static QuantizationConfig parse(const Json& json, const std::string& source = "config.json");

  // How the module's weight is stored; empty: not quantized. `module` is a name on disk without
  // ".weight". Modules that Quark does not treat as linear (embeddings, norms) are never quantized.
  std::optional<MxScheme> scheme_for(std::string_view module) const;

  const std::string& quant_method() const { return quant_method_; }
  const std::string& version() const { return version_; }
  const std::vector<std::string>& exclude() const { return exclude_; }

 private:
  class Excludes;

  std::string quant_method_;
  std::string version_;
  std::vector<std::string> exclude_;
  std::shared_ptr<const Excludes> compiled_;
  std::optional<MxScheme> global_;
  std::vector<std::pair<std::string, std::optional<MxScheme>>> layers_;
};

}  // namespace quern
