// See yaml_json.h. Resolution of plain scalars: PyYAML lib/yaml/resolver.py.
#include "quern/eval/yaml_json.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "quern/base/error.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

// A task file has some hundred nodes; aliases that multiply stop here.
constexpr int kMaxNodes = 100'000;

template <std::size_t N>
bool is_one_of(std::string_view text, const std::array<std::string_view, N>& words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

constexpr std::array<std::string_view, 5> kNull{"", "~", "null", "Null", "NULL"};
constexpr std::array<std::string_view, 9> kTrue{"yes",  "Yes", "YES", "true", "True",
                                                "TRUE", "on",  "On",  "ON"};
constexpr std::array<std::string_view, 9> kFalse{"no",    "No",  "NO",  "false", "False",
                                                 "FALSE", "off", "Off", "OFF"};

// Decimal and hexadecimal integers; PyYAML's binary, octal and base-60 forms stay text and are then
// refused where a number is expected.
bool parse_integer(std::string text, Json& value) {
  static const PythonRegex pattern("^(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+)\\z");
  if (pattern.find_all(text).empty()) return false;
  std::erase(text, '_');
  const bool hex = text.starts_with("0x");
  const char* begin = text.c_str() + (hex ? 2 : text[0] == '+' ? 1 : 0);
  const char* end = text.c_str() + text.size();
  std::int64_t number = 0;
  const auto read = std::from_chars(begin, end, number, hex ? 16 : 10);
  if (read.ec != std::errc{} || read.ptr != end) return false;
  value = number;
  return true;
}

// PyYAML wants a dot in every float: "1e-5" is text there.
bool parse_float(const std::string& text, Json& value) {
  static const PythonRegex pattern(
      "^[-+]?(?:[0-9][0-9_]*\\.[0-9_]*(?:[eE][-+][0-9]+)?|\\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?)\\z");
  if (pattern.find_all(text).empty()) return false;
  const auto number = parse_python_float(text);
  if (!number) return false;
  value = *number;
  return true;
}

class Converter {
 public:
  explicit Converter(std::string_view source) : source_(source) {}

  Json convert(const YAML::Node& node) {
    if (++nodes_ > kMaxNodes) throw Error("{}: more than {} YAML values", source_, kMaxNodes);
    const std::string& tag = node.Tag();
    if (!tag.empty() && tag != "?" && tag != "!" && !tag.starts_with("tag:yaml.org,2002:")) {
      throw Error("{}:{}: YAML tag '{}' is not supported (Python functions cannot run here)",
                  source_, node.Mark().line + 1, tag);
    }
    switch (node.Type()) {
      case YAML::NodeType::Scalar:
        return scalar(node);
      case YAML::NodeType::Sequence:
        return sequence(node);
      case YAML::NodeType::Map:
        return mapping(node);
      default:
        return nullptr;
    }
  }

 private:
  static Json scalar(const YAML::Node& node) {
    const std::string& text = node.Scalar();
    if (node.Tag() != "?") return text;  // quoted
    if (is_one_of(text, kNull)) return nullptr;
    if (is_one_of(text, kTrue)) return true;
    if (is_one_of(text, kFalse)) return false;
    Json value;
    if (parse_integer(text, value) || parse_float(text, value)) return value;
    return text;
  }

  Json sequence(const YAML::Node& node) {
    Json out = Json::array();
    for (const auto& element : node) out.push_back(convert(element));
    return out;
  }

  Json mapping(const YAML::Node& node) {
    Json out = Json::object();
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        throw Error("{}:{}: a YAML key must be a scalar", source_, node.Mark().line + 1);
      }
      const std::string& key = entry.first.Scalar();
      if (out.contains(key)) {
        throw Error("{}:{}: duplicate YAML key '{}'", source_, entry.first.Mark().line + 1, key);
      }
      out[key] = convert(entry.second);
    }
    return out;
  }

  std::string_view source_;
  int nodes_ = 0;
};

}  // namespace

Json parse_yaml(const std::string& text, std::string_view source) {
  try {
    return Converter(source).convert(YAML::Load(text));
  } catch (const YAML::Exception& error) {
    throw Error("{}:{}: invalid YAML: {}", source, error.mark.line + 1, error.msg);
  }
}

}  // namespace quern
