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

// One object of a configuration file. A null value counts as absent.
class ConfigReader {
 public:
  // `path` is the place of the object: "config.json", "config.json: text_config".
  ConfigReader(const Json& object, std::string path);

  bool has(std::string_view key) const { return value(key) != nullptr; }
  // nullptr when absent.
  const Json* value(std::string_view key) const;
  // The object under `key`; it must be one. Empty when absent.
  std::optional<ConfigReader> object(std::string_view key) const;
  ConfigReader required_object(std::string_view key) const;

  // Each overwrites `field` when the key is there and leaves it otherwise.
  void read(std::string_view key, bool& field) const;
  void read(std::string_view key, std::string& field) const;
  void read(std::string_view key, double& field) const;  // finite
  void read_positive(std::string_view key, double& field) const;
  void read(std::string_view key, std::vector<std::string>& field) const;
  void read(std::string_view key, std::vector<double>& field, std::size_t size) const;
  // An integer of [low, high]. High defaults to 2^40: no size or id of a model is larger, and
  // products of a few of them are checked where they are formed.
  void read(std::string_view key, std::int64_t& field, std::int64_t low = 1,
            std::int64_t high = kMaxInteger) const;
  void read(std::string_view key, std::vector<std::int64_t>& field, std::int64_t low,
            std::int64_t high) const;
  // As read(), but the key must be there.
  void require(std::string_view key, std::int64_t& field) const;

  template <typename T, typename... Args>
  void read_optional(std::string_view key, std::optional<T>& field, Args... args) const {
    if (!has(key)) return;
    T given{};
    read(key, given, args...);
    field = given;
  }

  // A list of integers, or one integer.
  void read_one_or_more(std::string_view key, std::vector<std::int64_t>& field,
                        std::int64_t low) const;

  // An Error: "<path>.<key>: expected <expected>, found <the value>".
  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;
  std::string path_of(std::string_view key) const;

  static constexpr std::int64_t kMaxInteger = std::int64_t{1} << 40;

 private:
  [[noreturn]] static void fail_value(const std::string& path, std::string_view expected,
                                      const Json& found);

  const Json* object_;
  std::string path_;
};

}  // namespace quern
