// An error of the API: HTTP status and the fields of OpenAI's error object.
// Must never carry what the client is not to see (paths, addresses).
// Proved by tests/server/chat_request_test.cc.
#pragma once

#include <string>
#include <string_view>

#include "quern/base/error.h"
#include "quern/base/json.h"

namespace quern::server {

class ApiError : public Error {
 public:
  // `type` is the one vLLM uses for the status (BadRequestError, NotFoundError, ...) unless given;
  // `param` "" becomes null.
  ApiError(int status, std::string message, std::string param = {}, std::string type = {});

  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& type() const { return type_; }

  // {"error": {"message", "type", "param", "code"}}.
  Json body() const;

 private:
  int status_;
  std::string param_;
  std::string type_;
};

// The value as Python prints it (None, True, 'text', [1, 2], {'a': 1.0}), at most `limit` bytes:
// vLLM's messages hold such text.
std::string python_repr(const Json& value, std::size_t limit = 512);

// An ApiError for a parameter with vLLM's suffix " (parameter=NAME, value=VALUE)".
ApiError parameter_error(std::string message, std::string_view parameter, const Json& value);

// Compact JSON; invalid UTF-8, should there be any, becomes U+FFFD instead of an exception.
std::string dump(const Json& value);

}  // namespace quern::server
