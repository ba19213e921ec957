// Binds a checkpoint's tensors by their names, in the formats that its quantization configuration
// says. Must never bind a tensor in a dtype that no kernel has: that is an Error that names it.
// Proved by tests/model/text_model_test.cc and tests/model/vision_tower_test.cc.
#pragma once

#include <string>

#include "quern/base/error.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/kernels/backend.h"
#include "quern/model/sharding.h"

namespace quern::model {

// Looks a module's tensors up and binds them in the format that the checkpoint's quantization says.
class Binder {
 public:
  Binder(const Checkpoint& checkpoint, const ModelConfig& config, kernels::Backend& backend,
         const Sharding& sharding)
      : checkpoint_(checkpoint), config_(config), backend_(backend), sharding_(sharding) {}

  // MODULE.weight (and MODULE.weight_scale): the rank's rows; null where it has none.
  kernels::WeightHandle module(const std::string& name) const {
    const auto scheme =
        config_.quantization_config ? config_.quantization_config->scheme_for(name) : std::nullopt;
    if (!scheme) return tensor(name + ".weight");
    const bool activations = scheme->activation == MxScheme::Activation::kDynamicMxfp4;
    const TensorView& weight = checkpoint_.get(name + ".weight");
    if (weight.shape.size() != 2 || weight.shape[1] % 16 != 0) {
      throw Error("tensor '{}.weight': MXFP4 needs [out, in/2] with in a multiple of 32, found {}",
                  name, shape_text(weight.shape));
    }
    return bind(
        activations ? kernels::WeightFormat::kMxfp4 : kernels::WeightFormat::kMxfp4WeightOnly,
        slice(name + ".weight"), slice(name + ".weight_scale"));
  }

  // A tensor that is stored as it is used.
  kernels::WeightHandle tensor(const std::string& name) const {
    const TensorView view = slice(name);
    switch (view.dtype) {
      case DType::kBF16:
        return bind(kernels::WeightFormat::kBF16, view, {});
      case DType::kF32:
        return bind(kernels::WeightFormat::kF32, view, {});
      default:
        throw Error("tensor '{}' is {}; this model runs with BF16 or F32 there", name,
                    dtype_name(view.dtype));
    }
  }

  kernels::WeightHandle f32_tensor(const std::string& name) const {
    const TensorView& view = checkpoint_.get(name);
    if (view.dtype != DType::kF32)
      throw Error("tensor '{}' is {}, expected F32", name, dtype_name(view.dtype));
    return tensor(name);
  }

 private:
  TensorView slice(const std::string& name) const {
    const TensorView& view = checkpoint_.get(name);
    if (view.shape.empty()) return view;
    return slice_rows(view, rows_of(name, view.shape[0], config_, sharding_));
  }

  kernels::WeightHandle bind(kernels::WeightFormat format, const TensorView& weight,
                             const TensorView& scale) const {
    if (weight.size() == 0) return nullptr;
    return backend_.bind({format, weight, scale});
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  kernels::Backend& backend_;
  Sharding sharding_;
};

}  // namespace quern::model
