// ast.literal_eval for the values that command lines hold; see python_text.h.
#include <charconv>

#include "quern/eval/python_text.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

constexpr int kMaxDepth = 32;

// Recursive descent; every function returns false when the text is not of its form.
class LiteralParser {
 public:
  explicit LiteralParser(std::string_view text) : text_(text) {}

  std::optional<Json> parse() {
    Json value;
    if (!parse_value(value, 0)) return std::nullopt;
    skip_space();
    if (at_ != text_.size()) return std::nullopt;
    return value;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }

  bool accept(std::string_view token) {
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  bool parse_value(Json& value, int depth) {
    if (depth > kMaxDepth) return false;
    skip_space();
    if (at_ == text_.size()) return false;
    switch (text_[at_]) {
      case '[':
        ++at_;
        return parse_sequence(value, ']', depth);
      case '(':
        ++at_;
        return parse_sequence(value, ')', depth);
      case '{':
        ++at_;
        return parse_dict(value, depth);
      case '\'':
      case '"':
        return parse_string(value);
      default:
        return parse_word(value);
    }
  }

  bool parse_sequence(Json& value, char close, int depth) {
    value = Json::array();
    for (;;) {
      skip_space();
      if (accept({&close, 1})) return true;
      Json element;
      if (!parse_value(element, depth + 1)) return false;
      value.push_back(std::move(element));
      skip_space();
      if (accept(",")) continue;
      // "(x)" is x in brackets, not a tuple.
      if (close == ')' && value.size() == 1) value = Json(value[0]);
      return accept({&close, 1});
    }
  }

  bool parse_dict(Json& value, int depth) {
    value = Json::object();
    for (;;) {
      skip_space();
      if (accept("}")) return true;
      Json key;
      Json element;
      if (!parse_value(key, depth + 1) || !key.is_string()) return false;
      skip_space();
      if (!accept(":") || !parse_value(element, depth + 1)) return false;
      value[key.get<std::string>()] = std::move(element);
      skip_space();
      if (!accept(",")) return accept("}");
    }
  }

  bool parse_string(Json& value) {
    const char quote = text_[at_++];
    std::string out;
    while (at_ < text_.size() && text_[at_] != quote) {
      const char c = text_[at_++];
      if (c == '\n') return false;
      if (c != '\\') {
        out += c;
      } else if (!parse_escape(out)) {
        return false;
      }
    }
    if (at_ == text_.size()) return false;
    ++at_;
    value = out;
    return true;
  }

  bool parse_escape(std::string& out) {
    if (at_ == text_.size()) return false;
    const char c = text_[at_++];
    switch (c) {
      case 'n':
        out += '\n';
        return true;
      case 't':
        out += '\t';
        return true;
      case 'r':
        out += '\r';
        return true;
      case '\\':
      case '\'':
      case '"':
        out += c;
        return true;
      case 'x':
        return parse_hex(out, 2);
      case 'u':
        return parse_hex(out, 4);
      default:
        out += '\\';
        out += c;
        return true;  // Python keeps unknown escapes
    }
  }

  bool parse_hex(std::string& out, std::size_t digits) {
    unsigned code = 0;
    const std::string_view hex = text_.substr(at_, digits);
    const auto read = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() != digits || read.ptr != hex.data() + digits) return false;
    if (code >= 0xd800 && code <= 0xdfff) return false;  // no UTF-8 form
    append_utf8(out, code);
    at_ += digits;
    return true;
  }

  bool parse_word(Json& value) {
    const std::size_t begin = at_;
    while (at_ < text_.size() &&
           std::string_view(",:[](){} \t'\"").find(text_[at_]) == std::string_view::npos) {
      ++at_;
    }
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (word == "None") {
      value = nullptr;
    } else if (word == "True" || word == "False") {
      value = word == "True";
    } else {
      return parse_number(word, value);
    }
    return true;
  }

  static bool parse_number(std::string_view word, Json& value) {
    const std::size_t first = word.find_first_of("0123456789");
    if (first == std::string_view::npos) return false;  // inf and nan are names, not literals
    if (word[0] == '+') word.remove_prefix(1);
    std::int64_t integer = 0;
    const auto read = std::from_chars(word.data(), word.data() + word.size(), integer);
    if (read.ec == std::errc{} && read.ptr == word.data() + word.size()) {
      value = integer;
      return true;
    }
    const auto number = parse_python_float(word);
    if (!number) return false;
    value = *number;
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

std::optional<Json> parse_python_literal(std::string_view text) {
  return LiteralParser(python_strip(text)).parse();
}

}  // namespace quern
