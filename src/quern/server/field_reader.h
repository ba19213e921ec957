// Reads fields of a JSON object into typed variables by pydantic's lenient rules ("0.5" is a
// number) and collects what does not fit as pydantic's error entries. Must never stop at the first
// error: a client sees all of them at once. Proved by tests/server/chat_request_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"

namespace quern::server {

// The JSON Schema of what read() takes for a member of the type, null included.
Json schema_of(const bool&);
Json schema_of(const std::int64_t&);
Json schema_of(const double&);
Json schema_of(const std::string&);
Json schema_of(const std::optional<bool>&);
Json schema_of(const std::optional<std::int64_t>&);
Json schema_of(const std::optional<double>&);
Json schema_of(const std::vector<std::int64_t>&);

enum class JsonKind { kObject, kList, kAny };

class FieldReader {
 public:
  // `location` is the path of the object: "'body'" or "'body', 'stream_options'".
  FieldReader(const Json& object, std::string location)
      : object_(object), location_(std::move(location)) {}

  // A field that is absent or null leaves `value` alone.
  void read(std::string_view name, bool& value);
  void read(std::string_view name, std::int64_t& value);
  void read(std::string_view name, double& value);
  void read(std::string_view name, std::string& value);
  void read(std::string_view name, std::optional<bool>& value);
  void read(std::string_view name, std::optional<std::int64_t>& value);
  void read(std::string_view name, std::optional<double>& value);
  void read(std::string_view name, std::vector<std::int64_t>& value);
  void read(std::string_view name, std::optional<std::vector<std::int64_t>>& value);
  void read_json(std::string_view name, JsonKind kind, Json& value);
  // A string or a list of strings.
  void read_strings(std::string_view name, std::vector<std::string>& value);
  // {"token id": bias}.
  void read_bias(std::string_view name, std::vector<std::pair<std::int64_t, double>>& value);
  void require(std::string_view name);

  // Adds an entry for the field; `type` and `message` are pydantic's.
  void fail(std::string_view name, std::string_view type, std::string_view message,
            const Json& input);
  // Takes over the entries of a reader of a nested object.
  void absorb(FieldReader& nested);
  // Throws ApiError (400, "Bad Request") when there is an entry.
  void finish() const;

 private:
  // nullptr when absent or null.
  const Json* find(std::string_view name) const;
  template <typename T, typename Convert>
  void convert(std::string_view name, T& value, Convert&& convert);

  struct Entry {
    std::string text;
    std::string param;
  };

  const Json& object_;
  std::string location_;
  std::vector<Entry> entries_;
};

}  // namespace quern::server
