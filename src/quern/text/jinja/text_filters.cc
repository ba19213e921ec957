// Filters on text and numbers (see interpreter.h).
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"
#include "quern/text/jinja/text_tools.h"
#include "quern/text/unicode.h"

namespace quern::jinja {
namespace {

Value tojson(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("tojson", call, {"indent", "ensure_ascii", "separators", "sort_keys"});
  // transformers' signature is (x, ensure_ascii, indent, ...), jinja2's (x, indent): by position an
  // integer can only be meant as the indent, a boolean only as ensure_ascii.
  JsonStyle style;
  if (args.has(0) && args.get(0).is_bool())
    style.ensure_ascii = args.flag(0);
  else if (args.has(0) && !args.get(0).is_none())
    style.indent = static_cast<int>(std::clamp(args.integer(0), Int{0}, Int{64}));
  if (args.has(1)) style.ensure_ascii = args.flag(1);
  if (args.has(2) && !args.get(2).is_none()) {
    const Values separators = in.iterate(args.get(2));
    if (separators.size() != 2) throw Error("tojson: separators are two strings");
    style.item_separator = in.text_of(separators[0]);
    style.key_separator = in.text_of(separators[1]);
  }
  style.sort_keys = args.flag(3);
  return Value(to_json(in.defined(value), style));
}

Value default_value(Interpreter&, const Value& value, CallArgs& call) {
  const Bound args("default", call, {"default_value", "boolean"});
  const bool missing = value.undefined() != nullptr || (args.flag(1) && !value.truthy());
  return missing ? args.get(0, "") : value;
}

Value trim(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("trim", call, {"chars"});
  std::optional<std::string> characters;
  if (!args.get(0).is_none()) characters = args.text(0);
  return Value(strip(in.text_of(value), characters, true, true));
}

template <std::string (*kMap)(std::string_view)>
Value map_text(Interpreter& in, const Value& value, CallArgs&) {
  const std::string text = in.text_of(value);
  in.step(scan_steps(text.size()));
  return Value(kMap(text));
}

Value replace_filter(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("replace", call, {"old", "new", "count"}, 2);
  const Int limit = args.get(2).is_none() ? Int{-1} : args.integer(2);
  return Value(
      replace(in, in.text_of(value), in.text_of(args.get(0)), in.text_of(args.get(1)), limit));
}

Value indent(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("indent", call, {"width", "first", "blank"});
  std::string margin;
  if (args.get(0).text() != nullptr)
    margin = args.text(0);
  else
    margin.assign(static_cast<std::size_t>(std::clamp(args.integer(0, 4), Int{0}, Int{1000})), ' ');
  const std::string text =
      in.text_of(value) + "\n";  // jinja2 adds it so that a last empty line counts
  const Values lines = split_lines(text, false);
  std::string out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    const std::string& line = lines[i].bytes();
    if ((i == 0 ? args.flag(1) : (args.flag(2) || !line.empty()))) out += margin;
    out += line;
    in.step(copy_steps(margin.size() + line.size()));
    in.check_size(out.size());
  }
  return Value(std::move(out));
}

Value escape(Interpreter& in, const Value& value, CallArgs&) {
  std::string out;
  const std::string text = in.text_of(value);
  in.step(scan_steps(text.size()));
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return Value(std::move(out));
}

Value urlencode(Interpreter& in, const Value& value, CallArgs&) {
  const auto quoted = [&](const std::string& text, bool slash) {
    in.step(scan_steps(text.size()));
    std::string out;
    for (const char c : text) {
      const bool plain =
          (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
          std::string_view("_.-~").find(c) != std::string_view::npos || (slash && c == '/');
      out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
    return out;
  };
  if (value.dict() == nullptr) return Value(quoted(in.text_of(value), true));
  std::string out;
  for (const auto& [key, item] : value.dict()->items()) {
    if (!out.empty()) out += '&';
    out += quoted(key.str(), false) + "=" + quoted(item.str(), false);
    in.step();
    in.check_size(out.size());
  }
  return Value(std::move(out));
}

// Python's int(text): digits with an optional sign and single underscores between them.
std::optional<Int> parse_int(std::string text, int base) {
  text = strip(text, std::nullopt, true, true);
  std::erase(text, '_');
  std::string_view digits = text;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  const std::string_view prefix = digits.substr(0, 2);
  if ((base == 16 && (prefix == "0x" || prefix == "0X")) ||
      (base == 8 && (prefix == "0o" || prefix == "0O")) ||
      (base == 2 && (prefix == "0b" || prefix == "0B"))) {
    digits.remove_prefix(2);
  }
  std::int64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return Int{value};
}

std::optional<double> parse_float(std::string text) {
  text = strip(text, std::nullopt, true, true);
  std::erase(text, '_');
  std::string_view digits = text;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size())
    return std::nullopt;
  return value;
}

Value int_filter(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("int", call, {"default", "base"});
  if (in.strict()) in.defined(value);
  if (value.is_int()) return value.as_int();
  std::optional<double> number;
  if (value.is_float()) number = value.as_double();
  if (value.text() != nullptr) {
    in.step(scan_steps(value.bytes().size()));
    if (const auto whole = parse_int(
            value.bytes(), static_cast<int>(std::clamp(args.integer(1, 10), Int{2}, Int{36})))) {
      return *whole;
    }
    number = parse_float(value.bytes());
  }
  const bool fits = number && std::abs(*number) < 1e38;
  return fits ? Value(static_cast<Int>(*number)) : args.get(0, 0);
}

Value float_filter(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("float", call, {"default"});
  if (in.strict()) in.defined(value);
  if (value.is_number()) return value.as_double();
  if (value.text() != nullptr) in.step(scan_steps(value.bytes().size()));
  const auto number = value.text() != nullptr ? parse_float(value.bytes()) : std::nullopt;
  return number ? Value(*number) : args.get(0, 0.0);
}

// Python's round: to even on the exact decimal value, which printing with that precision gives.
Value round_filter(Interpreter&, const Value& value, CallArgs& call) {
  const Bound args("round", call, {"precision", "method"});
  if (!value.is_number()) throw Error("round: a number is required, not {}", value.type_name());
  const int precision = static_cast<int>(std::clamp(args.integer(0, 0), Int{-300}, Int{300}));
  const std::string method = args.text(1, "common");
  const double number = value.as_double();
  if (method == "common") {
    if (value.is_int() && precision >= 0) return value.as_int();
    if (!std::isfinite(number)) return number;
    if (precision >= 0) return std::stod(fmt::format("{:.{}f}", number, precision));
    const double unit = std::pow(10.0, -precision);
    const double rounded = std::nearbyint(number / unit) * unit;
    return value.is_int() ? Value(static_cast<Int>(rounded)) : Value(rounded);
  }
  if (method != "ceil" && method != "floor") throw Error("method must be common, ceil or floor");
  const double scale = std::pow(10.0, precision);
  return (method == "ceil" ? std::ceil(number * scale) : std::floor(number * scale)) / scale;
}

Value abs_filter(Interpreter&, const Value& value, CallArgs&) {
  if (value.is_float()) return std::abs(value.as_double());
  if (!value.is_int()) throw Error("bad operand type for abs(): '{}'", value.type_name());
  return value.as_int() < 0 ? -value.as_int() : value.as_int();
}

Value center(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("center", call, {"width"});
  return Value(justify(in, Value(in.text_of(value)), args.integer(0, 80), " ", 0));
}

Value truncate(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("truncate", call, {"length", "killwords", "end", "leeway"});
  const Value text(in.text_of(value));
  const Int length = args.integer(0, 255);
  const std::string end = args.text(2, "...");
  const Int kept = length - static_cast<Int>(count_utf8(end));
  if (kept < 0) throw Error("truncate: expected length >= {}", count_utf8(end));
  if (static_cast<Int>(text.text()->characters) <= length + args.integer(3, 5)) return text;
  std::string out = in.slice(text, {}, kept, {}).bytes();
  if (!args.flag(1)) out = out.substr(0, out.rfind(' '));
  return Value(out + end);
}

Value wordcount(Interpreter& in, const Value& value, CallArgs&) {
  const std::string text = in.text_of(value);
  in.step(scan_steps(text.size()));
  std::size_t words = 0;
  bool inside = false;
  all_of_characters(text, [&](char32_t c) {
    const bool word = is_word(c);
    if (word && !inside) ++words;
    inside = word;
    return true;
  });
  return words;
}

constexpr std::array<std::pair<std::string_view, Filter>, 26> kTextFilters = {{
    {"tojson", tojson},
    {"default", default_value},
    {"d", default_value},
    {"trim", trim},
    {"upper", map_text<to_upper>},
    {"lower", map_text<to_lower>},
    {"title", map_text<jinja_title>},
    {"capitalize", map_text<capitalize>},
    {"replace", replace_filter},
    {"indent", indent},
    {"escape", escape},
    {"e", escape},
    {"forceescape", escape},
    {"safe", [](Interpreter& in, const Value& v, CallArgs&) { return Value(in.text_of(v)); }},
    {"string", [](Interpreter& in, const Value& v, CallArgs&) { return Value(in.text_of(v)); }},
    {"urlencode", urlencode},
    {"int", int_filter},
    {"float", float_filter},
    {"round", round_filter},
    {"abs", abs_filter},
    {"center", center},
    {"truncate", truncate},
    {"wordcount", wordcount},
    {"format", [](Interpreter& in, const Value& v,
                  CallArgs& args) { return Value(format_percent(in, in.text_of(v), args)); }},
    {"pprint", [](Interpreter&, const Value& v, CallArgs&) { return Value(v.repr()); }},
    {"attr",
     [](Interpreter& in, const Value& v, CallArgs& call) {
       const Bound args("attr", call, {"name"}, 1);
       if (v.dict() != nullptr && find_collection_method(v, args.text(0)) == nullptr) {
         return Value::undefined(fmt::format("'dict object' has no attribute '{}'", args.text(0)));
       }
       return in.get_attribute(v, args.text(0));
     }},
}};

}  // namespace

Filter find_text_filter(std::string_view name) {
  for (const auto& [key, filter] : kTextFilters) {
    if (key == name) return filter;
  }
  return nullptr;
}

}  // namespace quern::jinja
