// See api_error.h.
#include "quern/server/api_error.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace quern::server {
namespace {

std::string type_of_status(int status) {
  switch (status) {
    case 400:
      return "BadRequestError";
    case 401:
      return "AuthenticationError";
    case 404:
      return "NotFoundError";
    case 422:
      return "UnprocessableEntityError";
    case 429:
      return "TooManyRequestsError";
    case 501:
      return "NotImplementedError";
    case 503:
      return "ServiceUnavailableError";
    default:
      return status < 500 ? "BadRequestError" : "InternalServerError";
  }
}

// Python's str.__repr__ for what matters in a message: quotes, backslash, control characters.
void append_python_string(const std::string& text, std::string& out) {
  const bool single = text.find('\'') == std::string::npos || text.find('"') != std::string::npos;
  const char quote = single ? '\'' : '"';
  out += quote;
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  out += quote;
}

void append_python(const Json& value, std::size_t limit, std::string& out) {
  if (out.size() > limit) return;
  switch (value.type()) {
    case Json::value_t::null:
      out += "None";
      break;
    case Json::value_t::boolean:
      out += value.get<bool>() ? "True" : "False";
      break;
    case Json::value_t::string:
      append_python_string(value.get_ref<const std::string&>(), out);
      break;
    case Json::value_t::array: {
      out += '[';
      bool first = true;
      for (const Json& item : value) {
        if (out.size() > limit) break;
        if (!first) out += ", ";
        first = false;
        append_python(item, limit, out);
      }
      out += ']';
      break;
    }
    case Json::value_t::object: {
      out += '{';
      bool first = true;
      for (const auto& [key, item] : value.items()) {
        if (out.size() > limit) break;
        if (!first) out += ", ";
        first = false;
        append_python_string(key, out);
        out += ": ";
        append_python(item, limit, out);
      }
      out += '}';
      break;
    }
    default:
      out += value.dump();
  }
}

// Cuts at a character border.
void truncate_utf8(std::string& text, std::size_t limit) {
  if (text.size() <= limit) return;
  std::size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  text += "...";
}

}  // namespace

ApiError::ApiError(int status, std::string message, std::string param, std::string type)
    : Error(std::move(message)),
      status_(status),
      param_(std::move(param)),
      type_(type.empty() ? type_of_status(status) : std::move(type)) {}

Json ApiError::body() const {
  Json param = nullptr;
  if (!param_.empty()) param = param_;
  return {{"error",
           {{"message", what()}, {"type", type_}, {"param", std::move(param)}, {"code", status_}}}};
}

std::string python_repr(const Json& value, std::size_t limit) {
  std::string out;
  append_python(value, limit, out);
  truncate_utf8(out, limit);
  return out;
}

ApiError parameter_error(std::string message, std::string_view parameter, const Json& value) {
  // Strings stand without quotes there: the suffix formats with str(), not repr().
  std::string text = value.is_string() ? value.get<std::string>() : python_repr(value);
  truncate_utf8(text, 512);
  return {400, fmt::format("{} (parameter={}, value={})", message, parameter, text),
          std::string(parameter)};
}

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quern::server
