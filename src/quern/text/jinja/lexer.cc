// See lexer.h. The rules are those of jinja2/lexer.py.
#include "quern/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "quern/base/error.h"
#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern::jinja {
namespace {

using Kind = Token::Kind;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_name_start(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Line ends become "\n"; the last one goes unless it is to be kept.
std::string normalize(std::string_view source, bool keep_trailing_newline) {
  std::string out;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (!keep_trailing_newline && out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string source, const TemplateSyntax& syntax)
      : source_(std::move(source)), syntax_(syntax) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text_and_tag();
    add(Kind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string_view what) const { throw Error("line {}: {}", line_, what); }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool starts(std::string_view text) const { return rest().starts_with(text); }
  void add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  // Every byte is passed here once, so lines are counted here.
  std::string_view advance(std::size_t count) {
    const std::string_view passed = rest().substr(0, count);
    line_ += static_cast<int>(std::count(passed.begin(), passed.end(), '\n'));
    at_ += passed.size();
    if (!passed.empty()) line_starting_ = passed.back() == '\n';
    return passed;
  }
  void skip_space() {
    std::size_t n = 0;
    while (n < rest().size() && is_space(rest()[n])) ++n;
    advance(n);
  }

  // Text up to the next tag, and the tag.
  void text_and_tag() {
    std::size_t open = at_;
    while ((open = source_.find('{', open)) != source_.npos) {
      const char next = open + 1 < source_.size() ? source_[open + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++open;
    }
    if (open == source_.npos) {
      add(Kind::kText, source_.substr(at_));
      advance(rest().size());
      return;
    }
    const char kind = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    put_text(open, sign, kind != '{');
    advance((sign == '-' || sign == '+') ? 3 : 2);
    if (kind == '#') return comment();
    if (kind == '{') return expression(Kind::kPrintBegin, Kind::kPrintEnd, "}}");
    if (is_tag_named("raw")) return raw();
    expression(Kind::kBlockBegin, Kind::kBlockEnd, "%}");
  }

  // The text from here to `end`, cut as the sign of the tag behind it says.
  void put_text(std::size_t end, char sign, bool is_block) {
    const bool line_starting = line_starting_;
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && syntax_.lstrip_blocks && is_block) {
      const std::size_t newline = text.rfind('\n');
      const std::size_t from = newline == text.npos ? 0 : newline + 1;
      const std::string_view tail = text.substr(from);
      if ((newline != text.npos || line_starting) &&
          std::all_of(tail.begin(), tail.end(), is_space)) {
        text = text.substr(0, from);
      }
    }
    if (!text.empty()) add(Kind::kText, std::string(text));
    advance(end - at_);
  }

  // The end of a block or comment: "-" takes all white space behind it, trim_blocks one line end.
  bool take_end(std::string_view end, bool trims) {
    if (starts(fmt::format("-{}", end))) {
      advance(end.size() + 1);
      skip_space();
      return true;
    }
    if (trims && starts(fmt::format("+{}", end))) {
      advance(end.size() + 1);
      line_starting_ = false;
      return true;
    }
    if (!starts(end)) return false;
    advance(end.size());
    if (trims && syntax_.trim_blocks && starts("\n")) advance(1);
    return true;
  }

  void comment() {
    while (!take_end("#}", true)) {
      if (at_ == source_.size()) fail("missing end of comment tag");
      advance(1);
    }
  }

  bool is_tag_named(std::string_view name) const {
    std::string_view text = rest();
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    if (!text.starts_with(name)) return false;
    text.remove_prefix(name.size());
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    return text.starts_with("%}") || text.starts_with("-%}") || text.starts_with("+%}");
  }

  void raw() {
    skip_space();
    advance(3);
    skip_space();
    if (starts("-%}"))
      take_end("%}", false);
    else if (starts("%}"))
      advance(2);
    else
      fail("a raw tag cannot end with '+'");
    for (std::size_t open = source_.find("{%", at_); open != source_.npos;
         open = source_.find("{%", open + 2)) {
      const std::size_t here = at_;
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      const std::size_t skip = (sign == '-' || sign == '+') ? 3 : 2;
      at_ = open + skip;
      const bool found = is_tag_named("endraw");
      at_ = here;
      if (!found) continue;
      put_text(open, sign, true);
      advance(skip);
      skip_space();
      advance(6);
      skip_space();
      take_end("%}", true);
      return;
    }
    fail("missing end of raw directive");
  }

  void expression(Kind begin, Kind end, std::string_view closing) {
    const int opened = line_;
    add(begin, {});
    std::string brackets;  // the closing ones that are due
    while (true) {
      skip_space();
      if (at_ == source_.size()) throw Error("line {}: a tag without its '{}'", opened, closing);
      const int line = line_;
      if (brackets.empty() && take_end(closing, end == Kind::kBlockEnd)) {
        tokens_.push_back({end, {}, line});
        return;
      }
      token(brackets);
    }
  }

  void token(std::string& brackets) {
    const char c = rest().front();
    if (is_name_start(c)) {
      std::size_t n = 1;
      while (n < rest().size() && (is_name_start(rest()[n]) || is_digit(rest()[n]))) ++n;
      add(Kind::kName, std::string(rest().substr(0, n)));
      advance(n);
    } else if (is_digit(c)) {
      number();
    } else if (c == '"' || c == '\'') {
      string(c);
    } else {
      symbol(brackets);
    }
  }

  void number() {
    const std::string_view text = rest();
    const auto digits = [&](std::size_t from) {
      while (from < text.size() &&
             (is_digit(text[from]) || (text[from] == '_' && from > 0 && is_digit(text[from - 1]))))
        ++from;
      return from;
    };
    if (text.size() > 2 && text[0] == '0' &&
        std::isalpha(static_cast<unsigned char>(text[1])) != 0) {
      std::size_t n = 2;
      while (n < text.size() &&
             (std::isxdigit(static_cast<unsigned char>(text[n])) != 0 || text[n] == '_'))
        ++n;
      return put_number(Kind::kInteger, n);
    }
    std::size_t n = digits(0);
    Kind kind = Kind::kInteger;
    // "1.foo" is an attribute of an integer, and so is what follows a dot ("x.0.1").
    const bool after_dot =
        !tokens_.empty() && tokens_.back().kind == Kind::kOperator && tokens_.back().text == ".";
    if (!after_dot && n + 1 < text.size() && text[n] == '.' && is_digit(text[n + 1])) {
      n = digits(n + 1);
      kind = Kind::kFloat;
    }
    if (!after_dot && n < text.size() && (text[n] == 'e' || text[n] == 'E')) {
      std::size_t exponent = n + 1;
      if (exponent < text.size() && (text[exponent] == '+' || text[exponent] == '-')) ++exponent;
      if (exponent < text.size() && is_digit(text[exponent])) {
        n = digits(exponent);
        kind = Kind::kFloat;
      }
    }
    put_number(kind, n);
  }

  void put_number(Kind kind, std::size_t size) {
    std::string text(rest().substr(0, size));
    std::erase(text, '_');
    add(kind, std::move(text));
    advance(size);
  }

  void symbol(std::string& brackets) {
    static constexpr std::array<std::string_view, 27> kOperators = {
        "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "(", ")",
        "[",  "]",  "{",  "}",  ">",  "<",  "=", ".", ":", "|", ",", ";", "!"};
    for (const std::string_view op : kOperators) {
      if (!starts(op) || op == "!") continue;
      if (op == "(" || op == "[" || op == "{") {
        brackets += op == "(" ? ')' : (op == "[" ? ']' : '}');
      } else if (op == ")" || op == "]" || op == "}") {
        if (brackets.empty() || brackets.back() != op[0]) fail(fmt::format("unexpected '{}'", op));
        brackets.pop_back();
      }
      add(Kind::kOperator, std::string(op));
      advance(op.size());
      return;
    }
    fail(fmt::format("unexpected character '{}'", rest().substr(0, scan_utf8(rest()).length)));
  }

  void string(char quote) {
    const int line = line_;
    std::string value;
    advance(1);
    while (!starts({&quote, 1})) {
      if (at_ == source_.size()) throw Error("line {}: a string without its closing quote", line);
      if (rest().front() == '\\' && rest().size() > 1)
        escape(value);
      else
        value += advance(1);
    }
    advance(1);
    tokens_.push_back({Kind::kString, std::move(value), line});
  }

  // Python's escapes; an unknown one keeps its backslash.
  void escape(std::string& value) {
    static constexpr std::string_view kLetters = "abfnrtv\\'\"";
    static constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
    const char c = rest()[1];
    if (const std::size_t known = kLetters.find(c); known != kLetters.npos) {
      value += kValues[known];
      advance(2);
    } else if (c == '\n') {
      advance(2);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      advance(2);
      append_code(value, digits_value(c == 'x' ? 2 : (c == 'u' ? 4 : 8), true, 16));
    } else if (c >= '0' && c <= '7') {
      advance(1);
      append_code(value, digits_value(3, false, 8));
    } else {
      value += advance(1);
    }
  }

  char32_t digits_value(int count, bool exact, int base) {
    char32_t code = 0;
    int read = 0;
    for (; read < count && !rest().empty(); ++read) {
      const char c = rest().front();
      const bool valid =
          base == 16 ? std::isxdigit(static_cast<unsigned char>(c)) != 0 : (c >= '0' && c <= '7');
      if (!valid) break;
      const int digit =
          is_digit(c) ? c - '0' : (std::tolower(static_cast<unsigned char>(c)) - 'a' + 10);
      code = code * static_cast<char32_t>(base) + static_cast<char32_t>(digit);
      advance(1);
    }
    if (exact && read != count) fail("a truncated escape in a string");
    return code;
  }

  void append_code(std::string& value, char32_t code) const {
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail("an escape that is no character");
    append_utf8(value, code);
  }

  std::string source_;
  TemplateSyntax syntax_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last byte passed was a line end
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const TemplateSyntax& syntax) {
  if (const std::size_t bad = find_invalid_utf8(source); bad != source.npos) {
    throw Error("not valid UTF-8 at byte {}", bad);
  }
  return Lexer(normalize(source, syntax.keep_trailing_newline), syntax).run();
}

}  // namespace quern::jinja
