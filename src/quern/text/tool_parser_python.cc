// See tool_parser_python.h.
#include "quern/text/tool_parser_python.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_map>
#include <utility>
#include <vector>

#include "quern/base/json.h"

namespace quern::python {
namespace {

// sys.int_info.default_max_str_digits
constexpr std::size_t kMaxIntDigits = 4300;

// str.isspace beyond ASCII.
constexpr std::array<std::string_view, 19> kWideSpaces = {
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
    "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

bool is_ascii_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Moves a run of digits with single underscores between them from the front of `text` to `out`.
bool take_digits(std::string_view& text, std::string& out) {
  if (text.empty() || !is_digit(text.front())) return false;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    if (is_digit(text[i])) {
      out += text[i];
    } else if (text[i] != '_' || i + 1 == text.size() || !is_digit(text[i + 1])) {
      break;
    }
  }
  text.remove_prefix(i);
  return true;
}

void take_sign(std::string_view& text, std::string& out) {
  if (text.empty() || (text.front() != '+' && text.front() != '-')) return;
  if (text.front() == '-') out += '-';
  text.remove_prefix(1);
}

// Writes Python's json.dumps text while nlohmann's lexer reads: numbers keep their digits, a
// repeated key keeps its first place and its last value.
class Reformatter : public nlohmann::json_sax<Json> {
 public:
  explicit Reformatter(std::size_t max_depth) : max_depth_(max_depth) {}

  bool null() override { return place("null"); }
  bool boolean(bool value) override { return place(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return place(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override { return place(fmt::format("{}", value)); }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits.find_first_of(".eE") == std::string::npos) {  // an integer beyond 64 bits
      auto integer = to_int(digits);
      return integer && place(*std::move(integer));
    }
    return std::isfinite(value) && place(float_repr(value));
  }
  bool string(string_t& value) override { return place(json_string(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(true); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(false); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    Frame& frame = stack_.back();
    const auto [slot, added] = frame.slots.try_emplace(std::move(value), frame.items.size());
    if (added) frame.items.push_back({json_string(slot->first), {}});
    frame.slot = slot->second;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

  std::string take() { return std::move(root_); }

 private:
  struct Item {
    std::string key;
    std::string value;
  };
  struct Frame {
    bool object;
    std::size_t slot = 0;
    std::vector<Item> items;
    std::unordered_map<std::string, std::size_t> slots;
  };

  bool open(bool object) {
    if (stack_.size() >= max_depth_) return false;
    stack_.push_back({.object = object, .items = {}, .slots = {}});
    return true;
  }

  bool close() {
    const Frame frame = std::move(stack_.back());
    stack_.pop_back();
    std::string text(1, frame.object ? '{' : '[');
    for (const Item& item : frame.items) {
      if (text.size() > 1) text += ", ";
      if (frame.object) (text += item.key) += ": ";
      text += item.value;
    }
    text += frame.object ? '}' : ']';
    return place(std::move(text));
  }

  bool place(std::string text) {
    if (stack_.empty()) {
      root_ = std::move(text);
    } else if (Frame& frame = stack_.back(); frame.object) {
      frame.items[frame.slot].value = std::move(text);
    } else {
      frame.items.push_back({{}, std::move(text)});
    }
    return true;
  }

  std::size_t max_depth_;
  std::vector<Frame> stack_;
  std::string root_;
};

}  // namespace

std::size_t space_size(std::string_view text) {
  if (text.empty()) return 0;
  if (static_cast<unsigned char>(text.front()) < 0x80) return is_ascii_space(text.front()) ? 1 : 0;
  for (const std::string_view space : kWideSpaces) {
    if (text.starts_with(space)) return space.size();
  }
  return 0;
}

bool is_partial_space(std::string_view text) {
  if (text.empty()) return false;
  for (const std::string_view space : kWideSpaces) {
    if (text.size() < space.size() && space.starts_with(text)) return true;
  }
  return false;
}

std::string_view lstrip(std::string_view text) {
  while (const std::size_t size = space_size(text)) text.remove_prefix(size);
  return text;
}

std::string_view strip(std::string_view text) {
  text = lstrip(text);
  for (;;) {
    std::size_t drop = 0;
    for (std::size_t size = 1; size <= 3 && size <= text.size() && drop == 0; ++size) {
      if (space_size(text.substr(text.size() - size)) == size) drop = size;
    }
    if (drop == 0) return text;
    text.remove_suffix(drop);
  }
}

std::optional<std::string> to_int(std::string_view text) {
  text = strip(text);
  std::string digits;
  std::string sign;
  take_sign(text, sign);
  if (!take_digits(text, digits) || !text.empty() || digits.size() > kMaxIntDigits) return {};
  const std::size_t first = digits.find_first_not_of('0');
  if (first == std::string::npos) return "0";
  return sign + digits.substr(first);
}

std::optional<double> to_float(std::string_view text) {
  text = strip(text);
  std::string plain;  // without underscores, as strtod reads it
  take_sign(text, plain);
  bool digits = take_digits(text, plain);
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    plain += '.';
    digits |= take_digits(text, plain);
  }
  if (!digits) return {};
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    plain += 'e';
    take_sign(text, plain);
    if (!take_digits(text, plain)) return {};
  }
  if (!text.empty()) return {};
  const double value = std::strtod(plain.c_str(), nullptr);
  if (!std::isfinite(value)) return {};
  return value;
}

// CPython's float_repr_style 'short': the shortest digits that read back, fixed notation for
// decimal exponents -4 <= e < 16.
std::string float_repr(double value) {
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string_view text(buffer.data(), end.ptr);
  const std::size_t e = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const std::size_t fraction_digits =
      text.substr(0, e).find('.') == std::string_view::npos ? 0 : e - text.find('.') - 1;
  const int decimals = std::max(static_cast<int>(fraction_digits) - exponent, 1);
  return fmt::format("{:.{}f}", value, decimals);
}

void append_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
}

std::string json_string(std::string_view text) {
  std::string out = "\"";
  append_escaped(out, text);
  return out += '"';
}

std::optional<std::string> reformat_json(std::string_view text, std::size_t max_depth) {
  // json.loads refuses a byte order mark, and a NUL, which nlohmann takes for the end of the text.
  if (text.starts_with("\xef\xbb\xbf") || text.find('\0') != text.npos) return {};
  Reformatter reformatter(max_depth);
  if (!Json::sax_parse(text, &reformatter)) return {};
  return reformatter.take();
}

}  // namespace quern::python
