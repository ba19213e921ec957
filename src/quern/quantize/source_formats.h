// How the source checkpoint stores its weights: which tensors make one weight, and how to read it.
// Must never guess: an unknown quant_method or a weight without its scales is an Error before
// anything is written. Proved by tests/quantize/source_test.cc.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "quern/base/json.h"
#include "quern/quantize/source_scaled.h"

namespace quern {

// Every tensor of the source by name.
using TensorDirectory = std::unordered_map<std::string, KernelInput>;

// Row counts of the chunks of presharded weights, by pattern of the weight's name.
using PreshardedWeights = std::vector<std::pair<std::string, std::uint64_t>>;

class SourceFormats {
 public:
  // `config` is config.json; `presharded` empty: the source's own quantization_config may name
  // them. The directory must outlive this.
  SourceFormats(const Json& config, const TensorDirectory& tensors, PreshardedWeights presharded,
                DType model_dtype);

  // Scales, zero points and shapes that belong to a weight and are not written themselves.
  bool is_companion(const std::string& name) const { return companions_.contains(name); }
  // "m.weight" for "m.weight_packed", every other name as it is.
  static std::string weight_name(const std::string& stored);
  // The weight as floating point values; nullptr when it is stored as it is.
  std::unique_ptr<WeightSource> restore(const KernelInput& stored) const;

  // For keep_excluded_layers_as_original_model_state: the weight and its scale as they are, under
  // the names of a Quark checkpoint; empty when the tensor is not quantized.
  std::vector<std::unique_ptr<TensorKernel>> keep(const KernelInput& stored) const;
  // The entry of layer_quant_config that describes a module that was kept. Throws when Quark has no
  // words for the source's format.
  Json kept_layer_config(const std::string& module, const KernelInput& stored) const;

 private:
  struct Parts {
    const KernelInput* scale = nullptr;
    const KernelInput* zero_point = nullptr;
  };

  void read_config(const Json& config);
  void find_parts();
  Parts* add_part(const std::string& weight, const std::string& part);
  const Parts* parts_of(const std::string& stored) const;
  void set_grid(ScaledWeight& weight) const;
  ScaledWeight packed_integer(const KernelInput& stored, const Parts& parts) const;
  ScaledWeight one_byte(const KernelInput& stored, const Parts& parts) const;
  static bool is_mxfp4(const KernelInput& stored, const Parts& parts);
  ScaledWeight mxfp4(const KernelInput& stored, const Parts& parts) const;
  const KernelInput* find(const std::string& name) const;

  const TensorDirectory& tensors_;
  PreshardedWeights presharded_;
  DType model_dtype_;
  Json quantization_;   // null: a plain checkpoint
  std::string method_;  // quant_method
  std::string format_;  // of compressed-tensors
  int bits_ = 8;
  bool symmetric_ = true;
  std::uint64_t row_block_ = 128;
  std::uint64_t column_block_ = 128;
  std::unordered_map<std::string, Parts> parts_;  // by stored name
  std::unordered_set<std::string> companions_;
};

}  // namespace quern
