// See text_tools.h.
#include "quern/text/jinja/text_tools.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "quern/base/error.h"
#include "quern/text/unicode.h"

namespace quern::jinja {
namespace {

// str.splitlines' line ends.
bool ends_line(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

Values split_at_space(std::string_view text, Int limit) {
  Values parts;
  while (true) {
    while (!text.empty() && is_python_space(scan_utf8(text).code_point)) {
      text.remove_prefix(scan_utf8(text).length);
    }
    if (text.empty()) return parts;
    if (limit >= 0 && static_cast<Int>(parts.size()) == limit) {
      parts.emplace_back(strip(text, std::nullopt, false, true));
      return parts;
    }
    std::size_t end = 0;
    while (end < text.size() && !is_python_space(scan_utf8(text.substr(end)).code_point)) {
      end += scan_utf8(text.substr(end)).length;
    }
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

Values rsplit_at_space(std::string_view text, Int limit) {
  Values parts;
  while (true) {
    while (!text.empty() &&
           is_python_space(scan_utf8(text.substr(last_character(text))).code_point)) {
      text = text.substr(0, last_character(text));
    }
    if (text.empty()) break;
    if (limit >= 0 && static_cast<Int>(parts.size()) == limit) {
      parts.emplace_back(strip(text, std::nullopt, true, false));
      break;
    }
    std::size_t begin = text.size();
    while (begin > 0) {
      const std::size_t at = last_character(text.substr(0, begin));
      if (is_python_space(scan_utf8(text.substr(at)).code_point)) break;
      begin = at;
    }
    parts.emplace_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

// A number or string field: [[fill]align][sign][0][width][,][.precision][type].
struct FieldSpec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  Int width = 0;
  bool thousands = false;
  int precision = -1;
  char type = '\0';
};

int read_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value > 10'000) throw Error("invalid format specifier");
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}
bool at_digit(std::string_view text) { return !text.empty() && text[0] >= '0' && text[0] <= '9'; }

FieldSpec parse_spec(std::string_view text) {
  FieldSpec spec;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const std::size_t first = text.empty() ? 0 : scan_utf8(text).length;
  if (first < text.size() && is_align(text[first])) {
    spec.fill = text.substr(0, first);
    spec.align = text[first];
    text.remove_prefix(first + 1);
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[0];
    text.remove_prefix(1);
  }
  if (!text.empty() && (text[0] == '+' || text[0] == '-' || text[0] == ' ')) {
    spec.sign = text[0];
    text.remove_prefix(1);
  }
  if (!text.empty() && text[0] == '0' && spec.align == '\0') {
    spec.fill = "0";
    spec.align = '=';
  }
  if (at_digit(text)) spec.width = read_number(text);
  if (text.starts_with(',')) {
    spec.thousands = true;
    text.remove_prefix(1);
  }
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    if (!at_digit(text)) throw Error("Format specifier missing precision");
    spec.precision = read_number(text);
    if (spec.precision > 500) throw Error("invalid format specifier");
  }
  if (text.size() > 1) throw Error("invalid format specifier");
  if (!text.empty()) spec.type = text[0];
  return spec;
}

void group_thousands(std::string& digits) {
  const std::size_t point = std::min(digits.find_first_of(".e"), digits.size());
  for (std::size_t at = point; at > 3; at -= 3) digits.insert(at - 3, ",");
}

std::string number_digits(const Value& value, const FieldSpec& spec) {
  const std::string_view types = "feEgG%";
  const bool as_float =
      value.is_float() || (spec.type != '\0' && types.find(spec.type) != types.npos);
  if (!as_float) {
    Int n = value.as_int() < 0 ? -value.as_int() : value.as_int();
    const unsigned base = spec.type == 'x' || spec.type == 'X'
                              ? 16
                              : (spec.type == 'o' ? 8 : (spec.type == 'b' ? 2 : 10));
    std::string out;
    do {
      out += "0123456789abcdef"[static_cast<std::size_t>(n % base)];
      n /= base;
    } while (n != 0);
    std::reverse(out.begin(), out.end());
    return spec.type == 'X' ? to_upper(out) : out;
  }
  const double size = std::abs(value.as_double());
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  switch (spec.type) {
    case 'f':
    case 'F':
      return fmt::format("{:.{}f}", size, precision);
    case 'e':
      return fmt::format("{:.{}e}", size, precision);
    case 'E':
      return fmt::format("{:.{}E}", size, precision);
    case 'g':
      return fmt::format("{:.{}g}", size, precision);
    case 'G':
      return fmt::format("{:.{}G}", size, precision);
    case '%':
      return fmt::format("{:.{}f}%", size * 100, precision);
    case '\0':
      return spec.precision < 0 ? float_repr(size) : fmt::format("{:.{}g}", size, precision);
    default:
      throw Error("Unknown format code '{}' for object of type 'float'", spec.type);
  }
}

std::string format_field(Interpreter& in, const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return in.text_of(value);
  const FieldSpec spec = parse_spec(spec_text);
  std::string sign;
  std::string body;
  char align = spec.align;
  if (value.is_number()) {
    const bool negative = value.is_float() ? std::signbit(value.as_double()) : value.as_int() < 0;
    sign = negative ? "-" : (spec.sign == '-' ? "" : std::string(1, spec.sign));
    body = number_digits(value, spec);
    if (spec.thousands) group_thousands(body);
    if (align == '\0') align = '>';
  } else {
    if (spec.type != '\0' && spec.type != 's') {
      throw Error("Unknown format code '{}' for object of type '{}'", spec.type, value.type_name());
    }
    body = in.text_of(value);
    if (spec.precision >= 0) body = in.slice(Value(body), {}, spec.precision, {}).bytes();
    if (align == '\0' || align == '=') align = '<';
  }
  if (align == '=') {
    return sign +
           justify(in, Value(body), spec.width - static_cast<Int>(sign.size()), spec.fill, 1);
  }
  return justify(in, Value(sign + body), spec.width, spec.fill,
                 align == '<' ? -1 : (align == '>' ? 1 : 0));
}

}  // namespace

std::size_t find_bytes(std::string_view text, std::string_view part, std::size_t from) {
  if (from > text.size()) return text.npos;
  text.remove_prefix(from);
  if (part.empty()) return from;
  // memmem's time is proportional to the sum of the sizes.
  const void* found = ::memmem(text.data(), text.size(), part.data(), part.size());
  const std::size_t passed =
      found == nullptr ? text.size()
                       : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
  spend(copy_steps(passed + part.size()));
  return found == nullptr ? text.npos : from + passed;
}

std::size_t rfind_bytes(std::string_view text, std::string_view part) {
  // At worst each position is compared with the whole part; a step stands for 4 KiB of that.
  if (part.size() > text.size()) return text.npos;
  spend(scan_steps(text.size()) +
        static_cast<std::size_t>(static_cast<double>(text.size()) *
                                 static_cast<double>(part.size()) / 4096));
  return text.rfind(part);
}

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::string strip(std::string_view text, const std::optional<std::string>& characters, bool left,
                  bool right) {
  const auto drops = [&](std::string_view one) {
    if (!characters) return is_python_space(scan_utf8(one).code_point);
    spend(1 + copy_steps(characters->size()));
    return characters->find(one) != std::string::npos;
  };
  spend(scan_steps(text.size()));
  while (left && !text.empty()) {
    const std::size_t size = scan_utf8(text).length;
    if (!drops(text.substr(0, size))) break;
    text.remove_prefix(size);
  }
  while (right && !text.empty()) {
    const std::size_t at = last_character(text);
    if (!drops(text.substr(at))) break;
    text = text.substr(0, at);
  }
  return std::string(text);
}

Values split(std::string_view text, const std::optional<std::string>& separator, Int limit,
             bool from_right) {
  spend(scan_steps(text.size()));
  if (!separator) return from_right ? rsplit_at_space(text, limit) : split_at_space(text, limit);
  if (separator->empty()) throw Error("empty separator");
  Values parts;
  while (limit < 0 || static_cast<Int>(parts.size()) < limit) {
    const std::size_t at =
        from_right ? rfind_bytes(text, *separator) : find_bytes(text, *separator);
    if (at == text.npos) break;
    const std::size_t behind = at + separator->size();
    parts.emplace_back(from_right ? text.substr(behind) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(behind);
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Values split_lines(std::string_view text, bool keep_ends) {
  spend(scan_steps(text.size()));
  Values lines;
  while (!text.empty()) {
    std::size_t end = 0;
    while (end < text.size() && !ends_line(scan_utf8(text.substr(end)).code_point)) {
      end += scan_utf8(text.substr(end)).length;
    }
    std::size_t next = end;
    if (text.substr(end).starts_with("\r\n"))
      next += 2;
    else if (end < text.size())
      next += scan_utf8(text.substr(end)).length;
    lines.emplace_back(text.substr(0, keep_ends ? next : end));
    text.remove_prefix(next);
  }
  return lines;
}

std::string replace(Interpreter& in, std::string_view text, std::string_view from,
                    std::string_view to, Int limit) {
  std::string out;
  std::size_t at = 0;
  for (Int done = 0; limit < 0 || done < limit; ++done) {
    std::size_t found = 0;
    std::size_t passed = from.size();
    if (from.empty()) {  // in front of each character and at the end
      found = at;
      passed = at < text.size() ? scan_utf8(text.substr(at)).length : 0;
      out += to;
      out += text.substr(at, passed);
    } else {
      found = find_bytes(text, from, at);
      if (found == text.npos) break;
      out += text.substr(at, found - at);
      out += to;
    }
    in.check_size(out.size());
    in.step(1 + copy_steps(to.size()));
    at = found + passed;
    if (from.empty() && passed == 0) break;
  }
  out += text.substr(std::min(at, text.size()));
  return out;
}

std::string capitalize(std::string_view text) {
  spend(scan_steps(text.size()));
  if (text.empty()) return {};
  const std::size_t first = scan_utf8(text).length;
  return to_upper(text.substr(0, first)) + to_lower(text.substr(first));
}

std::string python_title(std::string_view text) {
  spend(scan_steps(text.size()));
  std::string out;
  bool inside = false;
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    const std::string_view one = text.substr(0, scan.length);
    out += inside ? to_lower(one) : to_upper(one);
    inside = is_alphabetic(scan.code_point);
    text.remove_prefix(scan.length);
  }
  return out;
}

std::string jinja_title(std::string_view text) {
  spend(scan_steps(text.size()));
  std::string out;
  bool starts = true;
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    const std::string_view one = text.substr(0, scan.length);
    out += starts ? to_upper(one) : to_lower(one);
    starts = is_python_space(scan.code_point) ||
             std::string_view("-([{<").find(one) != std::string_view::npos;
    text.remove_prefix(scan.length);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  spend(scan_steps(text.size()));
  std::string out;
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    const std::string_view one = text.substr(0, scan.length);
    out += is_upper(scan.code_point) ? to_lower(one) : to_upper(one);
    text.remove_prefix(scan.length);
  }
  return out;
}

std::string justify(Interpreter& in, const Value& text, Int width, std::string_view fill,
                    int side) {
  if (count_utf8(fill) != 1) throw Error("the fill character must be exactly one character long");
  const auto size = static_cast<Int>(text.text()->characters);
  if (width <= size) return text.bytes();
  const auto missing = static_cast<std::size_t>(std::min(width - size, Int{1} << 40));
  in.check_size(text.bytes().size() + missing * fill.size());
  in.step(scan_steps(missing));
  // str.center puts the odd space left when the width is odd.
  const std::size_t half = missing / 2 + (missing & static_cast<std::size_t>(width) & 1);
  const std::size_t left = side > 0 ? missing : (side < 0 ? 0 : half);
  std::string out;
  for (std::size_t i = 0; i < left; ++i) out += fill;
  out += text.bytes();
  for (std::size_t i = left; i < missing; ++i) out += fill;
  return out;
}

std::string format_braces(Interpreter& in, std::string_view pattern, CallArgs& args) {
  in.step(scan_steps(pattern.size()));
  std::string out;
  std::size_t automatic = 0;
  while (!pattern.empty()) {
    const char c = pattern.front();
    if ((c == '{' || c == '}') && pattern.size() > 1 && pattern[1] == c) {
      out += c;
      pattern.remove_prefix(2);
      continue;
    }
    if (c == '}') throw Error("Single '}}' encountered in format string");
    if (c != '{') {
      out += c;
      pattern.remove_prefix(1);
      continue;
    }
    const std::size_t end = pattern.find('}');
    if (end == pattern.npos) throw Error("Single '{{' encountered in format string");
    std::string_view field = pattern.substr(1, end - 1);
    pattern.remove_prefix(end + 1);
    const std::size_t colon = field.find(':');
    const std::string_view spec =
        colon == field.npos ? std::string_view() : field.substr(colon + 1);
    field = field.substr(0, colon);
    if (field.find_first_of("[!{") != field.npos)
      throw Error("format field '{}' is not supported", field);
    const std::size_t dot = field.find('.');
    const std::string_view head = field.substr(0, dot);
    Value value;
    if (head.empty() || at_digit(head)) {
      std::string_view digits = head;
      const std::size_t index =
          head.empty() ? automatic++ : static_cast<std::size_t>(read_number(digits));
      if (index >= args.positional.size()) throw Error("format index {} out of range", index);
      value = args.positional[index];
    } else {
      in.step(args.keyword.size() / 8);
      const auto it = std::find_if(args.keyword.begin(), args.keyword.end(),
                                   [&](const auto& k) { return k.first == head; });
      if (it == args.keyword.end()) throw Error("format: no argument '{}'", head);
      value = it->second;
    }
    if (dot != field.npos) value = attribute_path(in, value, Value(field.substr(dot + 1)));
    out += format_field(in, value, spec);
    in.check_size(out.size());
    in.step();
  }
  return out;
}

std::string format_percent(Interpreter& in, std::string_view pattern, CallArgs& args) {
  in.step(scan_steps(pattern.size()));
  std::string out;
  std::size_t next = 0;
  while (!pattern.empty()) {
    if (pattern.front() != '%') {
      out += pattern.front();
      pattern.remove_prefix(1);
      continue;
    }
    pattern.remove_prefix(1);
    if (pattern.starts_with('%')) {
      out += '%';
      pattern.remove_prefix(1);
      continue;
    }
    std::optional<Value> value;
    if (pattern.starts_with('(')) {
      const std::size_t end = std::min(pattern.find(')'), pattern.size() - 1);
      const std::string_view name = pattern.substr(1, end - 1);
      in.step(args.keyword.size() / 8);
      for (const auto& [key, item] : args.keyword) {
        if (key == name) value = item;
      }
      if (!value && args.positional.size() == 1 && args.positional[0].dict() != nullptr) {
        value = in.get_item(args.positional[0], Value(name));
      }
      if (!value) throw Error("format: no argument '{}'", name);
      pattern.remove_prefix(end + 1);
    }
    const std::size_t flags_end =
        std::min(pattern.find_first_not_of("0-+ #0123456789."), pattern.size());
    std::string spec(pattern.substr(0, flags_end));
    if (flags_end == pattern.size()) throw Error("incomplete format");
    const char type = pattern[flags_end];
    pattern.remove_prefix(flags_end + 1);
    if (!value) {
      if (next >= args.positional.size()) throw Error("not enough arguments for format string");
      value = args.positional[next++];
    }
    // The printf flags in the order of a format field; strings are set to the right by default.
    const bool left = spec.find('-') != spec.npos;
    std::erase(spec, '-');
    if (type == 's' || type == 'r') {
      const Value text(type == 'r' ? value->repr() : in.text_of(*value));
      out += format_field(in, text, (left ? "<" : ">") + spec);
    } else if (std::string_view("difFeEgGxXo").find(type) != std::string_view::npos) {
      if (!value->is_number())
        throw Error("%{} format: a real number is required, not {}", type, value->type_name());
      const bool whole = type == 'd' || type == 'i';
      const Value number =
          whole && value->is_float() ? Value(static_cast<Int>(value->as_double())) : *value;
      const std::string tail = whole ? "" : std::string(1, type);
      if (left && spec.starts_with('0')) spec.erase(0, 1);
      out += format_field(
          in, number,
          (left ? "<" : "") + spec + tail + (whole && spec.empty() && !left ? "d" : ""));
    } else {
      throw Error("unsupported format character '{}'", type);
    }
    in.check_size(out.size());
    in.step();
  }
  return out;
}

}  // namespace quern::jinja
