// See field_reader.h. Texts are pydantic 2's.
#include "quern/server/field_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <utility>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

constexpr std::size_t kShownErrors = 10;

// What a value could not be converted to.
struct Mismatch {
  std::string_view type;
  std::string_view message;
};

// Python's int() and float() accept blanks around the number.
std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

template <typename T>
std::optional<T> number_in(std::string_view text) {
  text = trimmed(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Mismatch> to_bool(const Json& json, bool& value) {
  constexpr Mismatch kNotBool{"bool_parsing",
                              "Input should be a valid boolean, unable to interpret input"};
  if (json.is_boolean()) {
    value = json.get<bool>();
    return std::nullopt;
  }
  if (json.is_number()) {
    const double number = json.get<double>();
    if (number != 0 && number != 1) return kNotBool;
    value = number == 1;
    return std::nullopt;
  }
  if (!json.is_string()) return Mismatch{"bool_type", "Input should be a valid boolean"};
  std::string text = json.get<std::string>();
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const char* yes : {"1", "true", "t", "yes", "y", "on"}) {
    if (text == yes) return value = true, std::nullopt;
  }
  for (const char* no : {"0", "false", "f", "no", "n", "off"}) {
    if (text == no) return value = false, std::nullopt;
  }
  return kNotBool;
}

std::optional<Mismatch> to_int(const Json& json, std::int64_t& value) {
  constexpr Mismatch kTooLarge{"int_parsing_size",
                               "Unable to parse input string as an integer, exceeded maximum size"};
  if (json.is_boolean()) {
    value = json.get<bool>() ? 1 : 0;
    return std::nullopt;
  }
  if (json.is_number_unsigned()) {
    if (json.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) return kTooLarge;
    value = json.get<std::int64_t>();
    return std::nullopt;
  }
  if (json.is_number_integer()) {
    value = json.get<std::int64_t>();
    return std::nullopt;
  }
  if (json.is_number_float()) {
    const double number = json.get<double>();
    if (number != std::trunc(number)) {
      return Mismatch{"int_from_float",
                      "Input should be a valid integer, got a number with a fractional part"};
    }
    if (std::abs(number) >= 9.2e18) return kTooLarge;
    value = static_cast<std::int64_t>(number);
    return std::nullopt;
  }
  if (!json.is_string()) return Mismatch{"int_type", "Input should be a valid integer"};
  const auto parsed = number_in<std::int64_t>(json.get_ref<const std::string&>());
  if (!parsed) {
    return Mismatch{"int_parsing",
                    "Input should be a valid integer, unable to parse string as an integer"};
  }
  value = *parsed;
  return std::nullopt;
}

std::optional<Mismatch> to_double(const Json& json, double& value) {
  if (json.is_boolean()) {
    value = json.get<bool>() ? 1 : 0;
    return std::nullopt;
  }
  if (json.is_number()) {
    value = json.get<double>();
    return std::nullopt;
  }
  if (!json.is_string()) return Mismatch{"float_type", "Input should be a valid number"};
  const auto parsed = number_in<double>(json.get_ref<const std::string&>());
  if (!parsed || !std::isfinite(*parsed)) {
    return Mismatch{"float_parsing",
                    "Input should be a valid number, unable to parse string as a number"};
  }
  value = *parsed;
  return std::nullopt;
}

std::optional<Mismatch> to_string(const Json& json, std::string& value) {
  if (!json.is_string()) return Mismatch{"string_type", "Input should be a valid string"};
  value = json.get<std::string>();
  return std::nullopt;
}

Json type_or_null(const char* name) { return {{"type", Json::array({name, "null"})}}; }

}  // namespace

Json schema_of(const bool&) { return type_or_null("boolean"); }
Json schema_of(const std::int64_t&) { return type_or_null("integer"); }
Json schema_of(const double&) { return type_or_null("number"); }
Json schema_of(const std::string&) { return type_or_null("string"); }
Json schema_of(const std::optional<bool>&) { return type_or_null("boolean"); }
Json schema_of(const std::optional<std::int64_t>&) { return type_or_null("integer"); }
Json schema_of(const std::optional<double>&) { return type_or_null("number"); }
Json schema_of(const std::vector<std::int64_t>&) {
  return {{"type", Json::array({"array", "null"})}, {"items", {{"type", "integer"}}}};
}

const Json* FieldReader::find(std::string_view name) const {
  const auto field = object_.find(std::string(name));
  return field == object_.end() || field->is_null() ? nullptr : &*field;
}

template <typename T, typename Convert>
void FieldReader::convert(std::string_view name, T& value, Convert&& convert) {
  const Json* json = find(name);
  if (json == nullptr) return;
  if (const auto mismatch = convert(*json, value)) {
    fail(name, mismatch->type, mismatch->message, *json);
  }
}

void FieldReader::read(std::string_view name, bool& value) { convert(name, value, to_bool); }
void FieldReader::read(std::string_view name, std::int64_t& value) { convert(name, value, to_int); }
void FieldReader::read(std::string_view name, double& value) { convert(name, value, to_double); }
void FieldReader::read(std::string_view name, std::string& value) {
  convert(name, value, to_string);
}

void FieldReader::read(std::string_view name, std::optional<bool>& value) {
  if (find(name) != nullptr) read(name, value.emplace());
}
void FieldReader::read(std::string_view name, std::optional<std::int64_t>& value) {
  if (find(name) != nullptr) read(name, value.emplace());
}
void FieldReader::read(std::string_view name, std::optional<double>& value) {
  if (find(name) != nullptr) read(name, value.emplace());
}

void FieldReader::read(std::string_view name, std::vector<std::int64_t>& value) {
  const Json* list = find(name);
  if (list == nullptr) return;
  if (!list->is_array()) return fail(name, "list_type", "Input should be a valid list", *list);
  for (const Json& item : *list) {
    std::int64_t number = 0;
    if (const auto mismatch = to_int(item, number)) {
      fail(name, mismatch->type, mismatch->message, item);
      return;
    }
    value.push_back(number);
  }
}

void FieldReader::read(std::string_view name, std::optional<std::vector<std::int64_t>>& value) {
  if (find(name) != nullptr) read(name, value.emplace());
}

void FieldReader::read_json(std::string_view name, JsonKind kind, Json& value) {
  const Json* json = find(name);
  if (json == nullptr) return;
  if (kind == JsonKind::kObject && !json->is_object()) {
    return fail(name, "dict_type", "Input should be a valid dictionary", *json);
  }
  if (kind == JsonKind::kList && !json->is_array()) {
    return fail(name, "list_type", "Input should be a valid list", *json);
  }
  value = *json;
}

void FieldReader::read_strings(std::string_view name, std::vector<std::string>& value) {
  const Json* json = find(name);
  if (json == nullptr) return;
  if (json->is_string()) {
    value.push_back(json->get<std::string>());
    return;
  }
  if (!json->is_array()) {
    return fail(name, "list_type", "Input should be a valid list", *json);
  }
  for (const Json& item : *json) {
    if (!item.is_string()) {
      return fail(name, "string_type", "Input should be a valid string", item);
    }
    value.push_back(item.get<std::string>());
  }
}

void FieldReader::read_bias(std::string_view name,
                            std::vector<std::pair<std::int64_t, double>>& value) {
  Json object;
  read_json(name, JsonKind::kObject, object);
  for (const auto& [key, item] : object.items()) {
    double bias = 0;
    if (const auto mismatch = to_double(item, bias)) {
      return fail(name, mismatch->type, mismatch->message, item);
    }
    const auto id = number_in<std::int64_t>(key);
    if (!id) {
      return fail(name, "int_parsing",
                  "Input should be a valid integer, unable to parse string as an integer", key);
    }
    value.emplace_back(*id, bias);
  }
}

void FieldReader::require(std::string_view name) {
  if (!object_.contains(std::string(name))) fail(name, "missing", "Field required", object_);
}

void FieldReader::fail(std::string_view name, std::string_view type, std::string_view message,
                       const Json& input) {
  std::string param = location_;  // "'body', 'a'" -> "body.a"
  std::erase_if(param, [](char c) { return c == '\'' || c == ' '; });
  for (char& c : param) c = c == ',' ? '.' : c;
  entries_.push_back({fmt::format("{{'type': '{}', 'loc': ({}, '{}'), 'msg': '{}', 'input': {}}}",
                                  type, location_, name, message, python_repr(input)),
                      fmt::format("{}.{}", param, name)});
}

void FieldReader::absorb(FieldReader& nested) {
  for (Entry& entry : nested.entries_) entries_.push_back(std::move(entry));
  nested.entries_.clear();
}

void FieldReader::finish() const {
  if (entries_.empty()) return;
  std::string message =
      fmt::format("{} validation error{}:", entries_.size(), entries_.size() == 1 ? "" : "s");
  for (std::size_t i = 0; i < entries_.size() && i < kShownErrors; ++i) {
    message += "\n  " + entries_[i].text;
  }
  throw ApiError(400, std::move(message), entries_.front().param, "Bad Request");
}

}  // namespace quern::server
