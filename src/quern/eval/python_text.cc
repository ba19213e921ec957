// See python_text.h. Sources: CPython 3.11 Lib/json/encoder.py, Objects/unicodeobject.c
// (unicode_repr), Python/pystrtod.c.
#include "quern/eval/python_text.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

// The code point at `at`; moves `at` behind it. Text was checked where it entered the program; what
// slipped through reads as U+FFFD.
char32_t next_code_point(std::string_view text, std::size_t& at) {
  const Utf8Scan scan = scan_utf8(text.substr(at));
  at += scan.length;
  return scan.kind == Utf8Scan::Kind::kValid ? scan.code_point : U'\uFFFD';
}

void append_json_string(std::string& out, std::string_view text, bool ensure_ascii) {
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    switch (c) {
      case U'"':
        out += "\\\"";
        continue;
      case U'\\':
        out += "\\\\";
        continue;
      case U'\n':
        out += "\\n";
        continue;
      case U'\r':
        out += "\\r";
        continue;
      case U'\t':
        out += "\\t";
        continue;
      case U'\f':
        out += "\\f";
        continue;
      case U'\b':
        out += "\\b";
        continue;
      default:
        break;
    }
    if (c < 0x20 || (ensure_ascii && c >= 0x7f && c <= 0xffff)) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else if (ensure_ascii && c > 0xffff) {
      const auto offset = static_cast<unsigned>(c) - 0x10000U;
      out +=
          fmt::format("\\u{:04x}\\u{:04x}", 0xd800U + (offset >> 10), 0xdc00U + (offset & 0x3ffU));
    } else {
      append_utf8(out, c);
    }
  }
  out += '"';
}

void append_line_break(std::string& out, int indent, int level) {
  out += '\n';
  out.append(static_cast<std::size_t>(indent * level), ' ');
}

void append_json(std::string& out, const Json& value, const PythonJsonStyle& style, int level) {
  switch (value.type()) {
    case Json::value_t::object:
    case Json::value_t::array:
      break;
    case Json::value_t::string:
      append_json_string(out, value.get_ref<const std::string&>(), style.ensure_ascii);
      return;
    case Json::value_t::number_float: {
      const double number = value.get<double>();
      if (std::isnan(number)) {
        out += "NaN";
      } else if (std::isinf(number)) {
        out += number > 0 ? "Infinity" : "-Infinity";
      } else {
        out += python_float(number);
      }
      return;
    }
    default:
      out += value.dump();
      return;
  }
  const bool is_object = value.is_object();
  out += is_object ? '{' : '[';
  bool first = true;
  for (auto item = value.begin(); item != value.end(); ++item) {
    if (!first) out += style.indent < 0 ? ", " : ",";
    if (style.indent >= 0) append_line_break(out, style.indent, level + 1);
    first = false;
    if (is_object) {
      append_json_string(out, item.key(), style.ensure_ascii);
      out += ": ";
    }
    append_json(out, *item, style, level + 1);
  }
  if (!first && style.indent >= 0) append_line_break(out, style.indent, level);
  out += is_object ? '}' : ']';
}

void append_repr_string(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == U'\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == U'\n') {
      out += "\\n";
    } else if (c == U'\r') {
      out += "\\r";
    } else if (c == U'\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      append_utf8(out, c);
    } else {
      const auto code = static_cast<unsigned>(c);
      out += c < 0x100     ? fmt::format("\\x{:02x}", code)
             : c < 0x10000 ? fmt::format("\\u{:04x}", code)
                           : fmt::format("\\U{:08x}", code);
    }
  }
  out += quote;
}

void append_repr(std::string& out, const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      out += "None";
      return;
    case Json::value_t::boolean:
      out += value.get<bool>() ? "True" : "False";
      return;
    case Json::value_t::string:
      append_repr_string(out, value.get_ref<const std::string&>());
      return;
    case Json::value_t::number_float:
      out += python_float(value.get<double>());
      return;
    case Json::value_t::object:
    case Json::value_t::array:
      break;
    default:
      out += value.dump();
      return;
  }
  out += value.is_object() ? '{' : '[';
  bool first = true;
  for (auto item = value.begin(); item != value.end(); ++item) {
    if (!first) out += ", ";
    first = false;
    if (value.is_object()) {
      append_repr_string(out, item.key());
      out += ": ";
    }
    append_repr(out, *item);
  }
  out += value.is_object() ? '}' : ']';
}

}  // namespace

std::string python_json(const Json& value, const PythonJsonStyle& style) {
  std::string out;
  append_json(out, value, style, 0);
  return out;
}

std::string python_repr(const Json& value) {
  std::string out;
  append_repr(out, value);
  return out;
}

std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // Shortest digits "d.ddde+XX", then Python's layout: fixed for exponents in [-4, 16).
  std::array<char, 40> buffer{};
  const auto written = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                     std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<std::size_t>(written.ptr - buffer.data()));
  const std::size_t e = text.find('e');
  int exponent = 0;
  const std::size_t digits_of_exponent = e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(text.data() + digits_of_exponent, text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);

  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  const std::string sign = text[0] == '-' ? "-" : "";
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

namespace {

// str.isspace: bidirectional type WS, B or S, or category Zs (Objects/unicodetype_db.h).
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

// Start of the last code point of `text`, which is not empty.
std::size_t last_start(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && text.size() - at < 4 && (static_cast<unsigned char>(text[at]) & 0xc0U) == 0x80U)
    --at;
  return at;
}

}  // namespace

bool starts_with_space(std::string_view text) {
  std::size_t at = 0;
  return !text.empty() && is_space(next_code_point(text, at));
}

bool ends_with_space(std::string_view text) {
  if (text.empty()) return false;
  std::size_t at = last_start(text);
  return is_space(next_code_point(text, at));
}

std::string_view python_lstrip(std::string_view text) {
  while (starts_with_space(text)) {
    std::size_t at = 0;
    next_code_point(text, at);
    text.remove_prefix(at);
  }
  return text;
}

std::string_view python_strip(std::string_view text) {
  text = python_lstrip(text);
  while (ends_with_space(text)) text = text.substr(0, last_start(text));
  return text;
}

std::size_t python_words(std::string_view text) {
  std::size_t words = 1;
  bool in_space = false;
  for (std::size_t at = 0; at < text.size();) {
    const bool space = is_space(next_code_point(text, at));
    if (space && !in_space) ++words;
    in_space = space;
  }
  return words;
}

std::optional<double> parse_python_float(std::string_view text) {
  text = python_strip(text);
  std::string digits;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits += text[i];
      continue;
    }
    const auto is_digit = [&](std::size_t at) {
      return at < text.size() && text[at] >= '0' && text[at] <= '9';
    };
    if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) return std::nullopt;
  }
  const bool negative = !digits.empty() && digits[0] == '-';
  if (negative || (!digits.empty() && digits[0] == '+')) digits.erase(0, 1);
  if (digits.empty() || digits[0] == '-' || digits[0] == '+') return std::nullopt;
  double value = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  // from_chars reads inf, infinity and nan without regard to case, as Python; "nan(...)" it alone
  // reads.
  if (read.ptr != digits.data() + digits.size() || digits.find('(') != std::string::npos)
    return std::nullopt;
  if (read.ec == std::errc::result_out_of_range) {
    value = std::strtod(digits.c_str(), nullptr);  // 0, a denormal or infinity, as Python
  } else if (read.ec != std::errc{}) {
    return std::nullopt;
  }
  return negative ? -value : value;
}

std::string python_str(const Json& value) {
  return value.is_string() ? value.get<std::string>() : python_repr(value);
}

}  // namespace quern
