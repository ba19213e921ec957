// Which part of a quantization recipe costs how much: each part in turn is left as it was, and the
// divergence from the base model is measured again.
// Must never leave a temporary checkpoint behind, nor hold more than one quantized model at a time.
// Proved by tests/eval/sensitivity_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/eval/divergence.h"

namespace quern {

struct SensitivityOptions {
  std::filesystem::path model_dir;
  std::string quant_scheme = "mxfp4";
  std::string template_name;   // as for quantize
  std::filesystem::path data;  // texts, as for the divergence
  TextOptions text;
  LogitModelOptions model;
  std::uint64_t extra_bytes = 0;  // what a suggested list may add to the recipe's size; 0 = none
  std::filesystem::path scratch_dir;  // empty: the system's folder of temporary files
};

// One way to quantize, measured.
struct MeasuredRecipe {
  std::vector<std::string> exclude_layers;  // the whole list
  std::uint64_t bytes = 0;                  // of the tensors
  Estimate kl;
  Estimate same_choice;
};

// The recipe without one part: all weights that the pattern names stay as they are.
struct SensitivityRow {
  std::string pattern;
  bool is_layer = false;  // all of one layer, else one kind of weight in all layers
  MeasuredRecipe without;
  std::uint64_t extra_bytes = 0;  // over the recipe's size
  double gain = 0;                // of KL divergence

  double gain_per_byte() const { return gain / static_cast<double>(extra_bytes); }
};

struct Sensitivity {
  MeasuredRecipe recipe;
  std::vector<SensitivityRow> rows;  // the largest gain for a byte first
  // Patterns that together fit extra_bytes, chosen by gain for a byte, and what they really give.
  std::vector<std::string> suggested;
  MeasuredRecipe with_suggested;  // of recipe and suggested; empty without a suggestion
};

// Patterns of the parts of a recipe: each kind of quantized weight ("*.experts.*.w2" in all
// layers), then each layer.
std::vector<SensitivityRow> recipe_parts(const std::vector<std::string>& quantized_weights);

Sensitivity measure_sensitivity(const SensitivityOptions& options);

std::string sensitivity_table(const Sensitivity& found);
Json sensitivity_json(const Sensitivity& found);

}  // namespace quern
