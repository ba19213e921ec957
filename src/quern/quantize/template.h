// Model templates: which linear layers of a model type stay unquantized.
// Must never accept a malformed template file: errors name file, template and key.
// Proved by tests/quantize/template_test.cc.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "quern/quantize/weight_converter.h"

namespace quern {

// One entry of templates.yaml; the fields are Quark's (LLMTemplate).
struct ModelTemplate {
  std::string model_type;
  std::vector<std::string> kv_layers_name;
  std::vector<std::string> q_layer_name;
  std::vector<std::string> gate_up_layers_name;
  std::vector<std::string> exclude_layers_name;
  std::vector<WeightConverter> weight_converters;  // Quark: f2f_weight_converters
};

// `source` names the text in errors.
std::vector<ModelTemplate> parse_templates(std::string_view yaml, std::string_view source);

// The templates that the program ships with, in the order of the file.
const std::vector<ModelTemplate>& builtin_templates();

// The template to use. `selection` empty: the built-in one of `model_type`; a path that ends in
// .yaml or .yml: that file's template of `model_type`, or its only one; otherwise the built-in one
// of that name.
ModelTemplate select_template(const std::string& selection, const std::string& model_type);

}  // namespace quern
