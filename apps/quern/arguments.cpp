// See arguments.h. Rules: vLLM utils/argparse_utils.py.
#include "arguments.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/eval/yaml_json.h"

namespace quern::cli {
namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;

constexpr auto kJsonOptions = std::to_array<std::string_view>(
    {"--default-chat-template-kwargs", "--override-generation-config", "--limit-mm-per-prompt",
     "--mm-processor-kwargs", "--media-io-kwargs", "--hf-overrides"});

constexpr auto kShortNames = std::to_array<std::pair<std::string_view, std::string_view>>(
    {{"-tp", "--tensor-parallel-size"},
     {"-pp", "--pipeline-parallel-size"},
     {"-dp", "--data-parallel-size"},
     {"-q", "--quantization"}});

// "--max_model_len=5" -> "--max-model-len"; "" for a word that is no option.
std::string option_name(const std::string& word) {
  if (!word.starts_with("--")) return {};
  std::string name = word.substr(0, word.find('='));
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string positive_name(std::string name) {
  if (name.starts_with("--no-")) name.replace(0, 5, "--");
  return name;
}

std::string scalar_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// The options of the file that the command line does not give itself.
std::vector<std::string> config_words(const std::string& path, const std::set<std::string>& given) {
  const Json config =
      with_context("--config", [&] { return parse_yaml(read_file(path, kMaxConfigBytes), path); });
  if (!config.is_object()) throw UsageError("--config {}: option names with values expected", path);
  std::vector<std::string> words;
  for (const auto& [key, value] : config.items()) {
    const std::string name = option_name("--" + key);
    if (name == "--config") throw UsageError("--config {}: a file cannot name another one", path);
    if (given.contains(positive_name(name)) || value.is_null()) continue;
    if (name == "--model") {
      words.insert(words.begin(), "--model=" + scalar_text(value));
    } else if (value.is_boolean()) {
      words.push_back(value.get<bool>() ? name : "--no-" + name.substr(2));
    } else if (value.is_array()) {
      if (value.empty()) continue;
      words.push_back(name);
      for (const Json& item : value) words.push_back(scalar_text(item));
    } else {
      words.push_back(name + "=" + scalar_text(value));
    }
  }
  return words;
}

Json value_of(const std::string& text) {
  Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(text) : value;
}

// Sets {"a": {"b": value}} for the path "a.b"; a "+" at its end appends to a list.
void set_path(Json& object, std::string_view path, const std::string& option,
              const std::string& text) {
  Json* at = &object;
  const bool append = path.ends_with('+');
  if (append) path.remove_suffix(1);
  while (true) {
    const std::size_t dot = path.find('.');
    const std::string key(path.substr(0, dot));
    if (key.empty()) throw UsageError("{}: an empty name", option);
    if (at->is_null()) *at = Json::object();
    if (!at->is_object()) throw UsageError("{}: '{}' lies below a value", option, key);
    at = &(*at)[key];
    if (dot == std::string_view::npos) break;
    path.remove_prefix(dot + 1);
  }
  if (!append) {
    *at = value_of(text);
    return;
  }
  if (at->is_null()) *at = Json::array();
  if (!at->is_array()) throw UsageError("{}: not a list", option);
  at->push_back(value_of(text));
}

// Takes a word's value: behind '=' or the next word.
std::string take_value(const std::vector<std::string>& words, std::size_t& i) {
  const std::size_t equals = words[i].find('=');
  if (equals != std::string::npos) return words[i].substr(equals + 1);
  if (i + 1 == words.size()) throw UsageError("{}: a value is expected", words[i]);
  return words[++i];
}

// Dotted pieces, and the option itself where there are such pieces, become one JSON text each.
std::vector<std::string> join_dotted(const std::vector<std::string>& words) {
  std::vector<std::pair<std::string, Json>> joined;
  const auto target = [&](const std::string& name) -> Json& {
    for (auto& [known, json] : joined) {
      if (known == name) return json;
    }
    return joined.emplace_back(name, nullptr).second;
  };
  std::vector<std::string> rest;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string word = words[i].substr(0, words[i].find('='));
    const std::size_t dot = word.find('.');
    const std::string name = option_name(word.substr(0, dot));
    if (std::find(kJsonOptions.begin(), kJsonOptions.end(), name) == kJsonOptions.end()) {
      rest.push_back(words[i]);
    } else if (dot != std::string::npos) {
      const std::string value = take_value(words, i);
      set_path(target(name), std::string_view(word).substr(dot + 1), name, value);
    } else {
      const std::string text = take_value(words, i);
      Json value = Json::parse(text, nullptr, false);
      Json& into = target(name);
      if (!value.is_object() || !(into.is_null() || into.is_object())) {
        into = text;  // wrong: the option's own check says so
      } else if (into.is_null()) {
        into = std::move(value);
      } else {
        into.update(value);
      }
    }
  }
  for (const auto& [name, json] : joined) rest.push_back(name + "=" + scalar_text(json));
  return rest;
}

}  // namespace

std::vector<std::string> expand_arguments(const std::vector<std::string>& words) {
  std::vector<std::string> own;
  std::set<std::string> given;
  std::string config;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string word = words[i];
    if (option_name(word) == "--config") {
      config = take_value(words, i);
      continue;
    }
    for (const auto& [short_name, long_name] : kShortNames) {
      const std::string head = word.substr(0, word.find('='));
      if (head == short_name) word.replace(0, head.size(), long_name);
    }
    const std::string name = option_name(word);
    if (!name.empty()) given.insert(positive_name(name.substr(0, name.find('.'))));
    own.push_back(std::move(word));
  }
  // The model as a plain word is the model of the file given otherwise.
  if (!own.empty() && !own.front().starts_with("-")) given.insert("--model");
  if (!config.empty()) {
    const std::vector<std::string> from_file = config_words(config, given);
    own.insert(own.end(), from_file.begin(), from_file.end());
  }
  return join_dotted(own);
}

}  // namespace quern::cli
