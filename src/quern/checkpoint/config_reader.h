// Typed access to the keys of a JSON object, with the path of the key in every error.
// Must never convert between types: 1.0 is not an integer, "1" is not a number.
// Proved by tests/checkpoint/model_config_test.cc.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/json.h"

namespace quern {

// One object of a configuration file; it views the object and must not outlive it. A null value
// counts as absent. Errors read "config.json: text_config.hidden_size: expected ..., found ...".
class ConfigReader {
 public:
  // No size, count or id of a model is larger; the product of any two fits into 63 bits.
  static constexpr std::int64_t kMaxInteger = std::numeric_limits<std::int32_t>::max();

  // `source` is the name of the file, `path` the keys that lead to the object (empty for the root).
  ConfigReader(const Json& object, std::string source, std::string path = "");

  const std::string& source() const { return source_; }
  // nullptr when absent.
  const Json* value(std::string_view key) const;
  bool has(std::string_view key) const { return value(key) != nullptr; }
  // The object under `key`; empty when absent.
  std::optional<ConfigReader> object(std::string_view key) const;
  ConfigReader required_object(std::string_view key) const;

  // Each overwrites `field` when the key is there and leaves it otherwise.
  void read(std::string_view key, bool& field) const;
  void read(std::string_view key, std::string& field) const;
  // A finite number of [low, high].
  void read(std::string_view key, double& field, double low = std::numeric_limits<double>::lowest(),
            double high = std::numeric_limits<double>::max()) const;
  // An integer of [low, high].
  void read(std::string_view key, std::int64_t& field, std::int64_t low = 1,
            std::int64_t high = kMaxInteger) const;
  void read(std::string_view key, std::vector<std::string>& field) const;
  void read(std::string_view key, std::vector<std::int64_t>& field, std::int64_t low,
            std::int64_t high) const;
  // As the above, into an optional.
  template <typename T, typename... Args>
  void read(std::string_view key, std::optional<T>& field, Args... args) const {
    if (has(key)) read(key, field.emplace(), args...);
  }
  // A list of integers, or one integer alone.
  void read_one_or_more(std::string_view key, std::vector<std::int64_t>& field, std::int64_t low,
                        std::int64_t high) const;
  // A positive integer that must be there.
  void require(std::string_view key, std::int64_t& field, std::int64_t high = kMaxInteger) const;

  // Throws "<source>: <path>.<key>: <problem>".
  [[noreturn]] void fail(std::string_view key, std::string_view problem) const;

 private:
  [[noreturn]] void fail_type(std::string_view key, std::string_view expected,
                              const Json& found) const;
  std::int64_t integer(std::string_view key, const Json& value, std::int64_t low,
                       std::int64_t high) const;
  std::string path_of(std::string_view key) const;

  const Json* object_;
  std::string source_;
  std::string path_;
};

}  // namespace quern
