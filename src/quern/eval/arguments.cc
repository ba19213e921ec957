// See arguments.h. Source: lm-evaluation-harness lm_eval/_cli/utils.py,
// lm_eval/models/api_models.py.
#include "quern/eval/arguments.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

constexpr std::size_t kMaxConcurrent = 4096;

// Arguments of the harness that change nothing here; the text says what stands in their place.
constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kIgnored{{
    {"truncate", "prompts are cut on the left to max_length"},
    {"use_fast_tokenizer", "tokenizer=DIR reads DIR/tokenizer.json"},
    {"max_images", "questions are text"},
    {"batch_size", "one question a request"},
    {"auth_token", "it serves a remote tokenizer only"},
    {"revision", "the server chose the checkpoint"},
    {"trust_remote_code", "no code is loaded"},
    {"add_bos_token", "a tokenizer adds no token of its own here"},
}};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string lower_ascii(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

// true/false, then all digits, then float(), then a Python literal, else text.
Json typed_value(std::string_view text) {
  const std::string lower = lower_ascii(text);
  if (lower == "true" || lower == "false") return lower == "true";
  const bool digits =
      !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  if (digits) {
    std::int64_t number = 0;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
    if (read.ec == std::errc{}) return number;
  }
  if (const auto number = parse_python_float(text)) return *number;
  if (auto literal = parse_python_literal(text)) return *std::move(literal);
  return std::string(text);
}

class Reader {
 public:
  explicit Reader(const Json& arguments) : arguments_(arguments) {}

  const Json* find(const char* key) const {
    const auto found = arguments_.find(key);
    return found == arguments_.end() || found->is_null() ? nullptr : &*found;
  }
  std::optional<std::string> text(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    // A model named "7" was typed as a number by the grammar.
    return value->is_string() ? value->get<std::string>() : python_repr(*value);
  }
  double number(const char* key, double low, double high, double otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
      throw UsageError("model argument {} must be a number in [{}, {}], found {}", key, low, high,
                       value->dump());
    }
    return value->get<double>();
  }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high,
                       std::int64_t otherwise) const {
    const double value = number(key, static_cast<double>(low), static_cast<double>(high),
                                static_cast<double>(otherwise));
    if (value != std::floor(value))
      throw UsageError("model argument {} must be an integer, found {}", key, value);
    return static_cast<std::int64_t>(value);
  }
  bool boolean(const char* key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean())
      throw UsageError("model argument {} must be true or false, found {}", key, value->dump());
    return value->get<bool>();
  }

 private:
  const Json& arguments_;
};

// tokenizer_backend=None: the harness then has no tokenizer and sends text.
bool names_no_tokenizer(const Json& arguments) {
  const auto found = arguments.find("tokenizer_backend");
  if (found == arguments.end()) return false;
  return found->is_null() || *found == "none" || *found == "None";
}

constexpr std::array<std::string_view, 18> kKnown{"model",
                                                  "pretrained",
                                                  "base_url",
                                                  "num_concurrent",
                                                  "max_retries",
                                                  "timeout",
                                                  "max_gen_toks",
                                                  "seed",
                                                  "eos_string",
                                                  "think_end_token",
                                                  "verify_certificate",
                                                  "ca_cert_path",
                                                  "header",
                                                  "tokenizer",
                                                  "max_length",
                                                  "tokenizer_backend",
                                                  "tokenized_requests",
                                                  "custom_prefix_token_id"};

void check_names(const Json& arguments) {
  for (const auto& [key, value] : arguments.items()) {
    if (std::find(kKnown.begin(), kKnown.end(), key) != kKnown.end()) continue;
    const auto ignored = std::find_if(kIgnored.begin(), kIgnored.end(),
                                      [&](const auto& entry) { return entry.first == key; });
    if (ignored == kIgnored.end()) {
      std::string known;
      for (const std::string_view name : kKnown)
        known += (known.empty() ? "" : ", ") + std::string(name);
      throw UsageError("unknown model argument '{}'; known: {}", key, known);
    }
    spdlog::info("model argument {} has no effect: {}", key, ignored->second);
  }
}

}  // namespace

Json parse_key_values(const std::vector<std::string>& arguments, const std::string& option) {
  Json values = Json::object();
  const auto put = [&](const std::string& key, Json value) {
    if (values.contains(key)) {
      spdlog::warn("{}: {} = {} overwrites {}", option, key, value.dump(), values[key].dump());
    }
    values[key] = std::move(value);
  };
  for (const std::string& argument : arguments) {
    if (python_strip(argument).starts_with('{')) {
      Json object;
      try {
        object = parse_json(argument, option);
      } catch (const Error& error) {
        throw UsageError("{} (double quotes are needed)", error.what());
      }
      for (auto& [key, value] : object.items()) put(key, value);
      continue;
    }
    for (const std::string_view pair : split(argument, ',')) {
      if (python_strip(pair).empty()) continue;
      const std::size_t equals = pair.find('=');
      if (equals == std::string_view::npos || equals == 0) {
        throw UsageError("{}: expected key=value, found '{}'", option, pair);
      }
      put(std::string(python_strip(pair.substr(0, equals))), typed_value(pair.substr(equals + 1)));
    }
  }
  return values;
}

Seeds parse_seeds(const std::string& text) {
  constexpr Seeds kDefault{0, 1234, 1234, 1234};
  std::vector<std::optional<std::int64_t>> values;
  for (const std::string_view part : split(text, ',')) {
    const std::string item = lower_ascii(python_strip(part));
    if (item == "none") {
      values.emplace_back();
      continue;
    }
    std::int64_t seed = 0;
    const auto read = std::from_chars(item.data(), item.data() + item.size(), seed);
    if (item.empty() || read.ec != std::errc{} || read.ptr != item.data() + item.size()) {
      throw UsageError("--seed: '{}' is not an integer or None", part);
    }
    values.emplace_back(seed);
  }
  if (values.size() == 1) return {values[0], values[0], values[0], values[0]};
  if (values.size() != 3 && values.size() != 4) {
    throw UsageError("--seed takes one value, or python,numpy,torch,fewshot; found {} values",
                     values.size());
  }
  return {values[0], values[1], values[2], values.size() == 4 ? values[3] : kDefault[3]};
}

std::size_t limited_rows(std::optional<double> limit, std::size_t rows) {
  if (!limit) return rows;
  if (!(*limit > 0)) throw UsageError("--limit must be above 0, found {}", *limit);
  const double wanted =
      *limit < 1 ? std::ceil(static_cast<double>(rows) * *limit) : std::floor(*limit);
  return wanted >= static_cast<double>(rows) ? rows : static_cast<std::size_t>(wanted);
}

bool is_evaluation_argument(std::string_view key) {
  return std::ranges::find(kKnown, key) != kKnown.end() ||
         std::ranges::find(kIgnored, key, [](const auto& entry) { return entry.first; }) !=
             kIgnored.end();
}

ModelArguments parse_model_arguments(const Json& arguments, bool in_process) {
  if (!in_process) check_names(arguments);
  const Reader reader(arguments);
  ModelArguments out;
  out.model = reader.text("model").value_or(reader.text("pretrained").value_or(""));
  if (out.model.empty())
    throw UsageError("--model_args must name the model (model=... or pretrained=...)");
  out.base_url = reader.text("base_url").value_or("");
  if (!in_process && out.base_url.empty()) {
    throw UsageError("--model_args must give base_url=http://HOST:PORT/v1/chat/completions");
  }
  out.num_concurrent = static_cast<std::size_t>(
      std::max<std::int64_t>(1, reader.integer("num_concurrent", 0, kMaxConcurrent, 1)));
  out.max_retries = static_cast<int>(reader.integer("max_retries", 1, 1000, 3));
  out.timeout_seconds = reader.number("timeout", 0.001, 1e7, 300);
  out.max_gen_toks = reader.integer("max_gen_toks", 1, 1 << 30, 256);
  out.seed = reader.integer("seed", INT64_C(-1) << 53, INT64_C(1) << 53, 1234);
  out.max_length = reader.integer("max_length", 2, 1 << 30, 2048);
  out.tokenizer = reader.text("tokenizer").value_or("");
  out.tokenized_requests =
      reader.boolean("tokenized_requests", true) && !names_no_tokenizer(arguments);
  if (reader.find("custom_prefix_token_id") != nullptr)
    out.custom_prefix_token_id = reader.integer("custom_prefix_token_id", 0, INT32_MAX, 0);
  out.eos_string = reader.text("eos_string");
  out.think_end_token = reader.text("think_end_token");
  out.verify_certificate = reader.boolean("verify_certificate", true);
  out.ca_cert_path = reader.text("ca_cert_path");
  if (const Json* header = reader.find("header")) {
    if (!header->is_object()) throw UsageError("model argument header must be an object of text");
    out.header.emplace();
    for (const auto& [name, value] : header->items()) {
      if (!value.is_string()) throw UsageError("model argument header: '{}' must be text", name);
      out.header->emplace_back(name, value.get<std::string>());
    }
  }
  return out;
}

}  // namespace quern
