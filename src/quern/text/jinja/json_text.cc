// json.dumps of template values (see value.h).
#include "quern/base/error.h"
#include "quern/text/jinja/value.h"
#include "quern/text/utf8.h"

#include <algorithm>
#include <cmath>

namespace quern::jinja {
namespace {

constexpr int kMaxJsonDepth = 100;

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}

  // Lists may share their items: each one written is paid for.
  void write(const Value& value) {
    spend(1);
    if (value.is_none())
      out_ += "null";
    else if (value.is_bool())
      out_ += value.truthy() ? "true" : "false";
    else if (value.is_int())
      out_ += int_text(value.as_int());
    else if (value.is_float())
      out_ += number(value.as_double());
    else if (value.text() != nullptr)
      string(value.bytes());
    else if (value.dict() != nullptr)
      object(*value.dict());
    else if (is_array(value))
      array(*value.sequence());
    else
      throw Error("Object of type {} is not JSON serializable", value.type_name());
    check_text_size(out_.size());
  }
  std::string take() { return std::move(out_); }

 private:
  static bool is_array(const Value& value) {
    const Sequence* s = value.sequence();
    return s != nullptr && (s->kind == Sequence::Kind::kList || s->kind == Sequence::Kind::kTuple);
  }

  static std::string number(double v) {
    if (std::isnan(v)) return "NaN";
    if (std::isinf(v)) return v < 0 ? "-Infinity" : "Infinity";
    return float_repr(v);
  }

  static std::string key_text(const Value& key) {
    if (key.text() != nullptr) return key.bytes();
    if (key.is_none()) return "null";
    if (key.is_bool()) return key.truthy() ? "true" : "false";
    if (key.is_int()) return int_text(key.as_int());
    if (key.is_float()) return number(key.as_double());
    throw Error("keys must be str, int, float, bool or None, not {}", key.type_name());
  }

  void string(std::string_view text) {
    spend(scan_steps(text.size()));
    out_ += '"';
    while (!text.empty()) {
      const Utf8Scan scan = scan_utf8(text);
      character(scan.code_point, text.substr(0, scan.length));
      text.remove_prefix(scan.length);
    }
    out_ += '"';
  }

  void character(char32_t c, std::string_view bytes) {
    static constexpr std::string_view kNamed = "\"\\\n\r\t\f\b";
    static constexpr std::string_view kLetters = "\"\\nrtfb";
    const std::size_t named = c < 0x80 ? kNamed.find(static_cast<char>(c)) : kNamed.npos;
    if (named != kNamed.npos) {
      out_ += '\\';
      out_ += kLetters[named];
    } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7E && c < 0x10000)) {
      out_ += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
    } else if (style_.ensure_ascii && c >= 0x10000) {
      const auto rest = static_cast<std::uint32_t>(c) - 0x10000;
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      out_ += bytes;
    }
  }

  void open(char bracket) {
    if (++depth_ > kMaxJsonDepth)
      throw Error("tojson: nested deeper than {} levels", kMaxJsonDepth);
    out_ += bracket;
  }
  void separate(bool first) {
    if (!first) append(style_.indent < 0 ? style_.item_separator : trimmed_separator());
    if (style_.indent >= 0) new_line();
  }
  void close(char bracket, bool empty) {
    --depth_;
    if (style_.indent >= 0 && !empty) new_line();
    out_ += bracket;
  }
  // With an indent json.dumps' default item separator is "," alone.
  std::string trimmed_separator() const {
    return style_.item_separator == ", " ? "," : style_.item_separator;
  }
  void append(std::string_view text) {
    spend(copy_steps(text.size()));
    check_text_size(out_.size() + text.size());
    out_ += text;
  }
  void new_line() {
    out_ += '\n';
    spend(copy_steps(static_cast<std::size_t>(style_.indent * depth_)));
    out_.append(static_cast<std::size_t>(style_.indent * depth_), ' ');
  }

  void array(const Sequence& sequence) {
    open('[');
    bool first = true;
    for (const Value& item : sequence.items) {
      separate(std::exchange(first, false));
      write(item);
    }
    close(']', sequence.items.empty());
  }

  void object(const Dict& dict) {
    open('{');
    spend(dict.items().size());
    auto items = dict.items();
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    }
    bool first = true;
    for (const auto& [key, value] : items) {
      separate(std::exchange(first, false));
      string(key_text(key));
      append(style_.key_separator);
      write(value);
    }
    close('}', items.empty());
  }

  const JsonStyle& style_;
  std::string out_;
  int depth_ = 0;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style) {
  Writer writer(style);
  writer.write(value);
  return writer.take();
}

}  // namespace quern::jinja
