// See config_reader.h.
#include "quern/checkpoint/config_reader.h"

#include <cmath>
#include <utility>

namespace quern {
namespace {

// A value as it stands in the file, cut to what fits into an error message.
std::string shown(const Json& value) {
  constexpr std::size_t kMaxShown = 80;
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) {
    text.resize(kMaxShown);
    text += "...";
  }
  return text;
}

std::string integer_range(std::int64_t low, std::int64_t high) {
  if (high < ConfigReader::kMaxInteger) return fmt::format("an integer of {} to {}", low, high);
  if (low == 1) return "a positive integer";
  if (low == 0) return "a non-negative integer";
  return fmt::format("an integer of at least {}", low);
}

}  // namespace

ConfigReader::ConfigReader(const Json& object, std::string source, std::string path)
    : object_(&object), source_(std::move(source)), path_(std::move(path)) {
  if (object.is_object()) return;
  throw Error("{}: {}{}expected an object, found {}", source_, path_, path_.empty() ? "" : ": ",
              shown(object));
}

const Json* ConfigReader::value(std::string_view key) const {
  const auto found = object_->find(std::string(key));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) const {
  const Json* found = value(key);
  if (found == nullptr) return std::nullopt;
  return ConfigReader(*found, source_, path_of(key));
}

ConfigReader ConfigReader::required_object(std::string_view key) const {
  std::optional<ConfigReader> found = object(key);
  if (!found) fail(key, "is missing");
  return *found;
}

void ConfigReader::read(std::string_view key, bool& field) const {
  const Json* found = value(key);
  if (found == nullptr) return;
  if (!found->is_boolean()) fail_type(key, "true or false", *found);
  field = found->get<bool>();
}

void ConfigReader::read(std::string_view key, std::string& field) const {
  const Json* found = value(key);
  if (found == nullptr) return;
  if (!found->is_string()) fail_type(key, "a string", *found);
  field = found->get<std::string>();
}

void ConfigReader::read(std::string_view key, double& field, double low, double high) const {
  const Json* found = value(key);
  if (found == nullptr) return;
  const double number = found->is_number() ? found->get<double>() : std::nan("");
  if (!(number >= low && number <= high)) {
    const bool any = low == std::numeric_limits<double>::lowest();
    fail_type(key, any ? "a number" : fmt::format("a number of {} to {}", low, high), *found);
  }
  field = number;
}

void ConfigReader::read(std::string_view key, std::int64_t& field, std::int64_t low,
                        std::int64_t high) const {
  if (const Json* found = value(key)) field = integer(key, *found, low, high);
}

void ConfigReader::read(std::string_view key, std::vector<std::string>& field) const {
  const Json* found = value(key);
  if (found == nullptr) return;
  if (!found->is_array()) fail_type(key, "a list of strings", *found);
  field.clear();
  for (const Json& item : *found) {
    if (!item.is_string()) fail_type(key, "a list of strings", item);
    field.push_back(item.get<std::string>());
  }
}

void ConfigReader::read(std::string_view key, std::vector<std::int64_t>& field, std::int64_t low,
                        std::int64_t high) const {
  const Json* found = value(key);
  if (found == nullptr) return;
  if (!found->is_array()) fail_type(key, "a list of integers", *found);
  field.clear();
  for (std::size_t i = 0; i < found->size(); ++i) {
    field.push_back(integer(fmt::format("{}[{}]", key, i), (*found)[i], low, high));
  }
}

void ConfigReader::read_one_or_more(std::string_view key, std::vector<std::int64_t>& field,
                                    std::int64_t low, std::int64_t high) const {
  const Json* found = value(key);
  if (found == nullptr) return;
  if (found->is_array()) return read(key, field, low, high);
  field = {integer(key, *found, low, high)};
}

void ConfigReader::require(std::string_view key, std::int64_t& field, std::int64_t high) const {
  if (!has(key)) fail(key, "is missing");
  read(key, field, 1, high);
}

void ConfigReader::fail(std::string_view key, std::string_view problem) const {
  throw Error("{}: {}: {}", source_, path_of(key), problem);
}

void ConfigReader::fail_type(std::string_view key, std::string_view expected,
                             const Json& found) const {
  fail(key, fmt::format("expected {}, found {}", expected, shown(found)));
}

std::int64_t ConfigReader::integer(std::string_view key, const Json& value, std::int64_t low,
                                   std::int64_t high) const {
  // An unsigned number above 2^63 would turn negative in get<int64_t>().
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() &&
                      value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max());
  if (!fits) fail_type(key, integer_range(low, high), value);
  const auto number = value.get<std::int64_t>();
  if (number < low || number > high) {
    fail_type(
        key,
        number > high ? fmt::format("an integer of {} to {}", low, high) : integer_range(low, high),
        value);
  }
  return number;
}

std::string ConfigReader::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

}  // namespace quern
