// See ebnf.h.
#include "quern/grammar/ebnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/base/error.h"
#include "quern/text/utf8.h"

namespace quern::grammar {
namespace {

constexpr int kMaxNesting = 100;
constexpr std::int64_t kMaxRepeats = 50000;
constexpr std::size_t kMaxRules = 20000;

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name_char(char c) {
  return is_name_start(c) || (c >= '0' && c <= '9') || c == '-' || c == '.';
}

class Parser {
 public:
  Parser(std::string_view text, GrammarBuilder& builder) : text_(text), builder_(builder) {}

  RuleId parse() {
    if (text_.find("::=") == std::string_view::npos) {
      throw Error(
          "grammar: no rule of the form `name ::= ...` was found; Lark grammars are not supported, "
          "write the grammar in EBNF");
    }
    for (skip_space(true); !at_end(); skip_space(true)) rule();
    for (const auto& [name, line] : used_) {
      if (!builder_.rule(rules_.at(name)).defined) {
        throw Error("grammar, line {}: rule '{}' is not defined", line, name);
      }
    }
    const auto root = rules_.find("root");
    if (root == rules_.end() || !builder_.rule(root->second).defined) {
      throw Error("grammar: there is no rule named 'root'");
    }
    return root->second;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    const auto line = 1 + std::ranges::count(text_.substr(0, position_), '\n');
    throw Error("grammar, line {}: {}", line, what);
  }
  // Counts on from the last call: references come in the order of the text.
  std::ptrdiff_t line() {
    for (; counted_ < position_; ++counted_) line_ += text_[counted_] == '\n' ? 1 : 0;
    return line_;
  }
  bool at_end() const { return position_ >= text_.size(); }
  std::string_view rest() const { return text_.substr(position_); }
  bool looking_at(std::string_view token) const { return rest().starts_with(token); }
  bool take(std::string_view token) {
    if (!looking_at(token)) return false;
    position_ += token.size();
    return true;
  }
  void skip_space(bool lines) {
    while (!at_end()) {
      const char c = text_[position_];
      if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
        ++position_;
      } else if (c == '#') {
        while (!at_end() && text_[position_] != '\n') ++position_;
      } else {
        return;
      }
    }
  }

  std::string_view name() {
    const std::size_t begin = position_;
    if (at_end() || !is_name_start(text_[position_])) fail("expected the name of a rule");
    while (!at_end() && is_name_char(text_[position_])) ++position_;
    return text_.substr(begin, position_ - begin);
  }

  RuleId rule_named(std::string_view rule) {
    const auto known = rules_.find(rule);
    if (known != rules_.end()) return known->second;
    if (rules_.size() >= kMaxRules) fail("too many rules");
    const RuleId id = builder_.add_rule(std::string(rule));
    rules_.emplace(rule, id);
    return id;
  }

  void rule() {
    const RuleId id = rule_named(name());
    if (builder_.rule(id).defined) fail("rule '" + builder_.rule(id).name + "' is defined twice");
    skip_space(true);
    if (!take("::=")) fail("expected ::= behind the name of a rule");
    skip_space(true);
    define(id, alternatives(0));
  }

  // Direct left recursion: a ::= a x | b becomes a ::= b x*.
  void define(RuleId id, const std::vector<std::vector<ExprId>>& alternatives) {
    std::vector<ExprId> bases, tails;
    for (const std::vector<ExprId>& parts : alternatives) {
      const bool recursive = !parts.empty() && calls(parts.front(), id);
      if (recursive && parts.size() == 1) continue;  // a ::= a adds nothing
      if (recursive) {
        tails.push_back(builder_.sequence({parts.begin() + 1, parts.end()}));
      } else {
        bases.push_back(builder_.sequence(parts));
      }
    }
    ExprId body = builder_.choice(bases);
    if (!tails.empty()) {
      body = builder_.sequence({body, builder_.repeat(builder_.choice(tails), 0, kUnbounded)});
    }
    builder_.define(id, body);
  }

  bool calls(ExprId expr, RuleId rule) const {
    const Expr& e = builder_.expr(expr);
    return e.kind == Expr::Kind::kRule && e.rule == rule;
  }

  std::vector<std::vector<ExprId>> alternatives(int depth) {
    if (depth > kMaxNesting) fail("groups are nested too deeply");
    std::vector<std::vector<ExprId>> result;
    do {
      skip_space(true);
      result.push_back(sequence(depth));
      skip_space_before_bar();
    } while (take("|"));
    return result;
  }

  // A line may begin with the bar of the rule above.
  void skip_space_before_bar() {
    const std::size_t before = position_;
    skip_space(true);
    if (!looking_at("|")) position_ = before;
  }

  std::vector<ExprId> sequence(int depth) {
    std::vector<ExprId> parts;
    for (;;) {
      const std::size_t before = position_;
      skip_space(true);
      if (at_end() || looking_at("|") || looking_at(")")) {
        position_ = before;
        return parts;
      }
      if (begins_rule()) return parts;
      std::optional<ExprId> part = element(depth);
      if (!part) fail("unexpected '" + std::string(rest().substr(0, 1)) + "'");
      parts.push_back(repeats(*part));
    }
  }

  // NAME ::= on what may be a new line.
  bool begins_rule() {
    if (!is_name_start(text_[position_])) return false;
    const std::size_t before = position_;
    name();
    skip_space(true);
    const bool begins = looking_at("::=");
    position_ = before;
    return begins;
  }

  std::optional<ExprId> element(int depth) {
    if (looking_at("\"")) return literal('"');
    if (looking_at("'")) return literal('\'');
    if (take("[")) return char_class();
    if (looking_at("(=")) fail("lookahead (= ... ) is not supported");
    if (take("(")) {
      std::vector<ExprId> choices;
      for (const auto& parts : alternatives(depth + 1)) choices.push_back(builder_.sequence(parts));
      skip_space(true);
      if (!take(")")) fail("expected )");
      return builder_.choice(choices);
    }
    if (take(".")) return builder_.chars(CharSet::all());
    if (looking_at("/")) fail("a /regex/ is not supported here");
    if (is_name_start(text_[position_])) {
      const std::string_view callee = name();
      used_.emplace(callee, line());
      return builder_.call(rule_named(callee));
    }
    return {};
  }

  ExprId repeats(ExprId part) {
    for (int stacked = 0;; ++stacked) {
      if (stacked > kMaxNesting) fail("too many quantifiers behind each other");
      if (take("*")) {
        part = builder_.repeat(part, 0, kUnbounded);
      } else if (take("+")) {
        part = builder_.repeat(part, 1, kUnbounded);
      } else if (take("?")) {
        part = builder_.optional(part);
      } else if (take("{")) {
        part = counted(part);
      } else {
        return part;
      }
    }
  }

  ExprId counted(ExprId part) {
    skip_space(false);
    const std::int64_t min = number().value_or(0);
    std::int64_t max = min;
    skip_space(false);
    if (take(",")) {
      skip_space(false);
      max = number().value_or(kUnbounded);
      skip_space(false);
    }
    if (!take("}")) fail("expected } behind a repeat count");
    if (max != kUnbounded && max < min) fail("a repeat count is smaller than its minimum");
    return builder_.repeat(part, min, max);
  }

  std::optional<std::int64_t> number() {
    std::optional<std::int64_t> value;
    while (!at_end() && text_[position_] >= '0' && text_[position_] <= '9') {
      value = value.value_or(0) * 10 + (text_[position_++] - '0');
      if (*value > kMaxRepeats) fail("a repeat count is above " + std::to_string(kMaxRepeats));
    }
    return value;
  }

  ExprId literal(char quote) {
    ++position_;
    std::string bytes;
    while (!at_end() && text_[position_] != quote) {
      if (text_[position_] == '\n') fail("a literal has no end");
      append_utf8(bytes, character());
    }
    if (at_end()) fail("a literal has no end");
    ++position_;
    return builder_.literal(bytes);
  }

  ExprId char_class() {
    const bool negated = take("^");
    std::vector<CharRange> ranges;
    while (!looking_at("]")) {
      if (at_end() || text_[position_] == '\n') fail("a character class has no end");
      const CharSet low = class_item();
      const bool single = low.ranges().size() == 1 && low.ranges()[0].first == low.ranges()[0].last;
      if (single && looking_at("-") && !looking_at("-]")) {
        ++position_;
        const char32_t last = character();
        if (last < low.ranges()[0].first) fail("a range of a character class is out of order");
        ranges.push_back({low.ranges()[0].first, last});
      } else {
        ranges.insert(ranges.end(), low.ranges().begin(), low.ranges().end());
      }
    }
    ++position_;
    const CharSet set(std::move(ranges));
    return builder_.chars(negated ? set.complement() : set);
  }

  CharSet class_item() {
    if (take("\\d")) return {{'0', '9'}};
    if (take("\\w")) return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    if (take("\\s")) return {{'\t', '\r'}, {' ', ' '}};
    return CharSet::of(character());
  }

  char32_t character() {
    if (at_end()) fail("ends inside a character");
    if (!take("\\")) {
      const Utf8Scan scan = scan_utf8(rest());
      if (scan.kind != Utf8Scan::Kind::kValid) fail("not valid UTF-8");
      position_ += scan.length;
      return scan.code_point;
    }
    if (at_end()) fail("ends inside an escape");
    const char c = text_[position_++];
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'f':
        return '\f';
      case 'b':
        return '\b';
      case 'v':
        return '\v';
      case 'a':
        return '\a';
      case '0':
        return 0;
      case 'x':
        return hex(2);
      case 'u':
        return hex(4);
      case 'U':
        return hex(8);
      default:
        break;
    }
    if (is_name_start(c) && c != '_') fail(std::string("the escape \\") + c + " is not supported");
    if (static_cast<unsigned char>(c) >= 0x80) fail("an escape of a character beyond ASCII");
    return static_cast<char32_t>(c);
  }

  char32_t hex(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = at_end() ? '\0' : text_[position_++];
      const char lower = static_cast<char>(c | 0x20);
      if (c >= '0' && c <= '9') {
        value = value * 16 + static_cast<char32_t>(c - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        value = value * 16 + static_cast<char32_t>(lower - 'a' + 10);
      } else {
        fail("expected a hexadecimal digit");
      }
    }
    if (value > kLastChar || (value >= 0xD800 && value <= 0xDFFF))
      fail("an escape is no character");
    return value;
  }

  std::string_view text_;
  std::size_t position_ = 0;
  std::size_t counted_ = 0;  // of text_, for line()
  std::ptrdiff_t line_ = 1;
  GrammarBuilder& builder_;
  std::map<std::string_view, RuleId, std::less<>> rules_;
  std::map<std::string_view, std::ptrdiff_t> used_;  // name, line
};

}  // namespace

RuleId parse_ebnf(std::string_view text, GrammarBuilder& builder) {
  return Parser(text, builder).parse();
}

}  // namespace quern::grammar
