// See template.h.
#include "quern/quantize/template.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "builtin_templates.h"
#include "quern/base/error.h"
#include "quern/base/file.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTemplateFileBytes = 1 << 20;

// A list of strings, or one string alone.
std::vector<std::string> string_list(const YAML::Node& node, const std::string& where) {
  std::vector<std::string> list;
  if (node.IsScalar()) return {node.Scalar()};
  if (!node.IsSequence()) throw Error("{}: expected a list of strings", where);
  for (const YAML::Node& item : node) {
    if (!item.IsScalar()) throw Error("{}: expected a list of strings", where);
    list.push_back(item.Scalar());
  }
  return list;
}

WeightConverter parse_converter(const YAML::Node& node, const std::string& where) {
  if (!node.IsMap()) throw Error("{}: expected a map", where);
  WeightConverter converter;
  std::string operation;
  for (const auto& entry : node) {
    const std::string key = entry.first.as<std::string>();
    if (key == "source") {
      converter.source = entry.second.as<std::string>();
    } else if (key == "targets") {
      converter.targets = string_list(entry.second, where + ".targets");
    } else if (key == "operation") {
      operation = entry.second.as<std::string>();
    } else if (key == "axis") {
      converter.axis = entry.second.as<int>();
    } else {
      throw Error("{}.{}: unknown key; known are source, targets, operation, axis", where, key);
    }
  }
  if (converter.source.empty())
    throw Error("{}.source: expected the end of a tensor's name", where);
  if (converter.targets.empty()) throw Error("{}.targets: expected names", where);
  if (operation == "Chunk") {
    converter.operation = WeightConverter::Operation::kChunk;
  } else if (operation != "SplitFusedExperts") {
    throw Error("{}.operation: expected Chunk or SplitFusedExperts, found '{}'", where, operation);
  }
  return converter;
}

std::vector<WeightConverter> parse_converters(const YAML::Node& node, const std::string& where) {
  if (!node.IsSequence()) throw Error("{}: expected a list", where);
  std::vector<WeightConverter> converters;
  for (const YAML::Node& item : node) {
    converters.push_back(parse_converter(item, fmt::format("{}[{}]", where, converters.size())));
  }
  return converters;
}

ModelTemplate parse_template(const std::string& name, const YAML::Node& node,
                             const std::string& where) {
  if (!node.IsMap()) throw Error("{}: expected a map of patterns", where);
  ModelTemplate result{name, {}, {}, {"gate_proj", "up_proj"}, {}, {}};
  for (const auto& entry : node) {
    const std::string key = entry.first.as<std::string>();
    const std::string key_where = fmt::format("{}.{}", where, key);
    if (key == "kv_layers_name") {
      result.kv_layers_name = string_list(entry.second, key_where);
    } else if (key == "q_layer_name") {
      result.q_layer_name = string_list(entry.second, key_where);
    } else if (key == "gate_up_layers_name") {
      result.gate_up_layers_name = string_list(entry.second, key_where);
    } else if (key == "exclude_layers_name") {
      result.exclude_layers_name = string_list(entry.second, key_where);
    } else if (key == "weight_converters") {
      result.weight_converters = parse_converters(entry.second, key_where);
    } else {
      throw Error(
          "{}: unknown key; known are kv_layers_name, q_layer_name, gate_up_layers_name, "
          "exclude_layers_name, weight_converters",
          key_where);
    }
  }
  return result;
}

const ModelTemplate* find(const std::vector<ModelTemplate>& templates, std::string_view name) {
  const auto found = std::find_if(templates.begin(), templates.end(),
                                  [&](const ModelTemplate& t) { return t.model_type == name; });
  return found == templates.end() ? nullptr : &*found;
}

// Quark's text (LLMTemplate.get), with the way out that this program has.
[[noreturn]] void throw_unknown(const std::string& name) {
  std::string available;
  for (const ModelTemplate& t : builtin_templates()) {
    available += (available.empty() ? "" : ", ") + t.model_type;
  }
  throw Error(
      "There is no model template defined for the model type '{}'. Available templates: {}. Give "
      "--template FILE.yaml or --exclude_layers",
      name, available);
}

}  // namespace

std::vector<ModelTemplate> parse_templates(std::string_view yaml, std::string_view source) {
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root.IsMap()) throw Error("{}: expected a map of templates by model type", source);
    std::vector<ModelTemplate> templates;
    for (const auto& entry : root) {
      const std::string name = entry.first.as<std::string>();
      if (find(templates, name)) throw Error("{}: template '{}' stands twice", source, name);
      templates.push_back(parse_template(name, entry.second, fmt::format("{}: {}", source, name)));
    }
    return templates;
  } catch (const YAML::Exception& error) {
    throw Error("{}: {}", source, error.what());
  }
}

const std::vector<ModelTemplate>& builtin_templates() {
  static const std::vector<ModelTemplate> templates =
      parse_templates(kBuiltinTemplatesYaml, "templates.yaml");
  return templates;
}

ModelTemplate select_template(const std::string& selection, const std::string& model_type) {
  if (selection.ends_with(".yaml") || selection.ends_with(".yml")) {
    const auto templates = parse_templates(read_file(selection, kMaxTemplateFileBytes), selection);
    if (const ModelTemplate* found = find(templates, model_type)) return *found;
    if (templates.size() == 1) return templates.front();
    throw Error("{}: {} templates, none for the model type '{}'", selection, templates.size(),
                model_type);
  }
  const std::string& name = selection.empty() ? model_type : selection;
  if (const ModelTemplate* found = find(builtin_templates(), name)) return *found;
  throw_unknown(name);
}

}  // namespace quern
