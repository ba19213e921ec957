// What happens to each tensor of a checkpoint, decided from headers and config.json alone.
// Must never write anything, and must name every tensor that would stop the run before the run
// starts. Proved by tests/quantize/pipeline_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/quantize/scheme.h"
#include "quern/quantize/source_formats.h"
#include "quern/quantize/tensor_kernel.h"
#include "quern/quantize/weight_converter.h"

namespace quern {

struct QuantizeOptions {
  std::filesystem::path model_dir;
  std::filesystem::path output_dir;
  std::string quant_scheme = "mxfp4";
  // Of MXFP4 weights. `importance_file` (for kSearch): a safetensors file with a F32 tensor [in] of
  // the weight's name for each layer whose squared errors shall be weighted; it is mapped.
  ScaleRule scale_rule = ScaleRule::kEven;
  std::filesystem::path importance_file;
  std::vector<std::string> layer_config;  // PATTERN=SCHEME, see parse_layer_config()
  // Replaces the template's list; an empty list excludes nothing.
  std::optional<std::vector<std::string>> exclude_layers;
  std::string template_name;  // see select_template()
  // Applied before anything else is decided; the template's own are used when
  // `template_converters` is on and these are empty.
  std::vector<WeightConverter> weight_converters;
  bool template_converters = false;
  // Excluded weights of a quantized source stay in its format instead of being restored.
  bool keep_excluded_layers_as_original_model_state = false;
  PreshardedWeights presharded_weights;
  bool overwrite = false;
  int threads = 0;  // 0 = one per core
  std::uint64_t memory_budget_bytes = 256ull << 20;
  int rank = 0;  // of the processes that share the job
  int world_size = 1;
  bool report = true;  // measure what is lost
  // A field that changes bytes of the output belongs in job_of() too (output_directory.cc).
};

enum class TensorAction { kCopy, kCast, kQuantize };
std::string_view action_name(TensorAction action);

struct PlannedTensor {
  TensorInfo source;
  TensorAction action = TensorAction::kCopy;
  std::string scheme;  // for kQuantize, by Quark's name
  // Reads `source` and what belongs to it, writes the output tensors. Holds no file open. A scan
  // leaves its result in it, so two runs of one plan must not overlap.
  std::shared_ptr<TensorKernel> kernel;
};

struct PlannedShard {
  std::filesystem::path source;
  std::string output_name;
  std::vector<PlannedTensor> tensors;  // in the order of their bytes in the source
  SafetensorsLayout layout;            // of the output
};

struct QuantizePlan {
  std::vector<PlannedShard> shards;                   // sorted by output name
  std::string config_text;                            // the output's config.json
  std::shared_ptr<const SafetensorsFile> importance;  // what encoders point into
  std::vector<WeightConverter> converters;            // those that were used
  std::vector<std::string> notes;                     // what the user should know of the output
  std::size_t quantized_tensors = 0;
  std::uint64_t source_bytes = 0;  // of all shard files
  std::uint64_t output_bytes = 0;
};

// True for names that Quark takes for the weight of a linear layer: "M.weight", M not ending in
// "norm" and without "embed". It also needs two dimensions to be quantized.
bool is_linear_weight_name(std::string_view tensor);

// Throws an Error naming the first tensor that cannot be treated, and how many there are.
QuantizePlan make_plan(const QuantizeOptions& options);

// The plan as a table: one line for all tensors that differ only in the numbers of their names.
std::string plan_text(const QuantizePlan& plan);

}  // namespace quern
