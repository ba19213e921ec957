// See regex_grammar.h.
#include "quern/grammar/regex_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/base/error.h"
#include "quern/text/regex.h"
#include "quern/text/utf8.h"

namespace quern::grammar {
namespace {

constexpr int kMaxNesting = 200;
constexpr std::int64_t kMaxRepeats = 50000;
constexpr std::int64_t kUnbounded = -1;

const CharSet kDigits = {{'0', '9'}};
const CharSet kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CharSet kSpace = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                        {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CharSet kLineEnd = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

struct Node {
  enum class Kind { kSet, kSequence, kChoice, kRepeat, kBegin, kEnd };
  Kind kind = Kind::kSequence;
  CharSet set;
  std::vector<std::unique_ptr<Node>> parts;
  std::int64_t min = 0;
  std::int64_t max = 0;
};
using NodePtr = std::unique_ptr<Node>;

NodePtr make_node(Node::Kind kind) {
  auto node = std::make_unique<Node>();
  node->kind = kind;
  return node;
}

NodePtr set_node(CharSet set) {
  auto node = make_node(Node::Kind::kSet);
  node->set = std::move(set);
  return node;
}

// The characters with a Unicode property, found by running PCRE2 once over all characters.
CharSet property_set(const std::string& property) {
  static std::mutex mutex;
  static std::map<std::string, CharSet> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(property); found != known.end()) return found->second;
  const Regex regex = Regex::compile("[" + property + "]+");
  static const std::string everything = [] {
    std::string text;
    for (char32_t c = 0; c <= kLastChar; ++c) {
      if (c < 0xD800 || c > 0xDFFF) append_utf8(text, c);
    }
    return text;
  }();
  Regex::Matcher matcher(regex);
  std::vector<CharRange> ranges;
  const auto char_before = [&](std::size_t end) {
    std::size_t begin = end - 1;
    while ((static_cast<unsigned char>(everything[begin]) & 0xC0) == 0x80) --begin;
    return scan_utf8(std::string_view(everything).substr(begin)).code_point;
  };
  for (std::size_t from = 0;;) {
    const auto match = matcher.find(everything, from);
    if (!match) break;
    const char32_t first = scan_utf8(std::string_view(everything).substr(match->begin)).code_point;
    ranges.push_back({first, char_before(match->end)});
    from = match->end;
  }
  const CharSet set(std::move(ranges));
  constexpr std::size_t kMaxKnown = 64;
  if (known.size() < kMaxKnown) known.emplace(property, set);
  return set;
}

class Parser {
 public:
  explicit Parser(std::string_view pattern) : pattern_(pattern) {}

  NodePtr parse() {
    NodePtr node = choice();
    if (!at_end()) refuse("an unmatched )");
    return node;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw Error("regex '{}', byte {}: {} is not supported", shown(), position_, what);
  }
  [[noreturn]] void invalid(std::string_view what) const {
    throw Error("regex '{}', byte {}: {}", shown(), position_, what);
  }
  std::string shown() const {
    constexpr std::size_t kShown = 80;
    std::size_t size = std::min(pattern_.size(), kShown);
    while (size > 0 && size < pattern_.size() &&
           (static_cast<unsigned char>(pattern_[size]) & 0xC0) == 0x80) {
      --size;
    }
    return std::string(pattern_.substr(0, size)) + (size < pattern_.size() ? "..." : "");
  }

  bool at_end() const { return position_ >= pattern_.size(); }
  std::string_view rest() const { return pattern_.substr(position_); }
  bool looking_at(std::string_view text) const { return rest().starts_with(text); }
  bool take(std::string_view text) {
    if (!looking_at(text)) return false;
    position_ += text.size();
    return true;
  }
  char32_t take_char() {
    if (at_end()) invalid("ends too early");
    const Utf8Scan scan = scan_utf8(rest());
    if (scan.kind != Utf8Scan::Kind::kValid) invalid("is not valid UTF-8");
    position_ += scan.length;
    return scan.code_point;
  }

  NodePtr choice() {
    if (++depth_ > kMaxNesting) invalid("groups are nested too deeply");
    NodePtr node = make_node(Node::Kind::kChoice);
    node->parts.push_back(sequence());
    while (take("|")) node->parts.push_back(sequence());
    --depth_;
    return node;
  }

  NodePtr sequence() {
    NodePtr node = make_node(Node::Kind::kSequence);
    while (!at_end() && !looking_at("|") && !looking_at(")")) node->parts.push_back(repeated());
    return node;
  }

  NodePtr repeated() {
    NodePtr node = atom();
    for (;;) {
      std::int64_t min = 0;
      std::int64_t max = kUnbounded;
      if (take("*")) {
      } else if (take("+")) {
        min = 1;
      } else if (take("?")) {
        max = 1;
      } else if (!counts(min, max)) {
        return node;
      }
      if (looking_at("+")) refuse("a possessive quantifier");
      take("?");  // lazy: the same language
      if (looking_at("*") || looking_at("+") || looking_at("?")) {
        invalid("a quantifier follows a quantifier");
      }
      NodePtr repeat = make_node(Node::Kind::kRepeat);
      repeat->min = min;
      repeat->max = max;
      repeat->parts.push_back(std::move(node));
      node = std::move(repeat);
    }
  }

  // {n}, {n,}, {n,m}; anything else leaves the brace a literal, as ECMA and Python do.
  bool counts(std::int64_t& min, std::int64_t& max) {
    if (!looking_at("{")) return false;
    const std::size_t close = rest().find('}');
    if (close == std::string_view::npos) return false;
    const std::string_view body = rest().substr(1, close - 1);
    const std::size_t comma = body.find(',');
    const std::string_view low = body.substr(0, comma);
    const auto number = [&](std::string_view text) -> std::int64_t {
      if (text.empty() || text.size() > 9) return -2;
      std::int64_t value = 0;
      for (const char c : text) {
        if (c < '0' || c > '9') return -2;
        value = value * 10 + (c - '0');
      }
      return value;
    };
    min = low.empty() && comma != std::string_view::npos && body.size() > 1 ? 0 : number(low);
    if (min < 0) return false;
    if (comma == std::string_view::npos) {
      max = min;
    } else {
      const std::string_view high = body.substr(comma + 1);
      max = high.empty() ? kUnbounded : number(high);
      if (max == -2) return false;
    }
    if (max >= 0 && max < min) invalid("a repeat count is smaller than its minimum");
    if (std::max(min, max) > kMaxRepeats) {
      invalid(fmt::format("a repeat count is above {}", kMaxRepeats));
    }
    position_ += close + 1;
    return true;
  }

  NodePtr atom() {
    if (take("(")) return group();
    if (take("[")) return set_node(char_class());
    if (take("^")) return make_node(Node::Kind::kBegin);
    if (take("$")) return make_node(Node::Kind::kEnd);
    if (take(".")) return set_node(kLineEnd.complement());
    if (looking_at("*") || looking_at("+") || looking_at("?")) {
      invalid("a quantifier has nothing to repeat");
    }
    if (take("\\")) {
      if (looking_at("b")) refuse("the word boundary \\b");
      if (looking_at("B")) refuse("the word boundary \\B");
      if (take("A")) return make_node(Node::Kind::kBegin);
      if (take("Z") || take("z")) return make_node(Node::Kind::kEnd);
      if (!at_end() && rest().front() >= '1' && rest().front() <= '9') refuse("a backreference");
      if (looking_at("k<") || looking_at("g{") || looking_at("g<")) refuse("a backreference");
      return set_node(escape());
    }
    return set_node(CharSet::of(take_char()));
  }

  NodePtr group() {
    if (take("?")) {
      if (take("=")) refuse("lookahead (?=");
      if (take("!")) refuse("negative lookahead (?!");
      if (take("<=")) refuse("lookbehind (?<=");
      if (take("<!")) refuse("negative lookbehind (?<!");
      if (take(">")) refuse("an atomic group (?>");
      if (take("#")) refuse("a comment (?#");
      if (take("(")) refuse("a conditional (?(");
      if (take("P=")) refuse("a backreference");
      if (take("P<") || take("<")) {
        const std::size_t close = rest().find('>');
        if (close == std::string_view::npos) invalid("a group name has no end");
        position_ += close + 1;
      } else if (!take(":")) {
        refuse("an inline flag (?" + std::string(rest().substr(0, 1)));
      }
    }
    NodePtr node = choice();
    if (!take(")")) invalid("a group has no end");
    return node;
  }

  CharSet char_class() {
    const bool negated = take("^");
    std::vector<CharRange> ranges;
    const auto add = [&](const CharSet& item) {
      ranges.insert(ranges.end(), item.ranges().begin(), item.ranges().end());
    };
    bool first = true;
    while (!(looking_at("]") && !first)) {
      if (at_end()) invalid("a character class has no end");
      if (looking_at("[:")) refuse("a POSIX class [:");
      if (first && looking_at("]")) break;  // ECMA: an empty class
      first = false;
      std::optional<char32_t> single;
      const CharSet low = class_item(single);
      if (single && looking_at("-") && !rest().substr(1).starts_with("]") && rest().size() > 1) {
        take("-");
        std::optional<char32_t> end;
        const CharSet high = class_item(end);
        if (end) {
          if (*end < *single) invalid("a range of a character class is out of order");
          ranges.push_back({*single, *end});
          continue;
        }
        // [a-\d] is three items
        ranges.push_back({'-', '-'});
        add(high);
      }
      add(low);
    }
    take("]");
    const CharSet set(std::move(ranges));
    return negated ? set.complement() : set;
  }

  // One character (then `single` is set) or a set.
  CharSet class_item(std::optional<char32_t>& single) {
    CharSet set;
    if (take("\\")) {
      set = take("b") ? CharSet::of('\b') : escape();
    } else {
      set = CharSet::of(take_char());
    }
    if (set.ranges().size() == 1 && set.ranges()[0].first == set.ranges()[0].last) {
      single = set.ranges()[0].first;
    }
    return set;
  }

  CharSet escape() {
    const char32_t c = take_char();
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return kDigits.complement();
      case 'w':
        return kWord;
      case 'W':
        return kWord.complement();
      case 's':
        return kSpace;
      case 'S':
        return kSpace.complement();
      case 't':
        return CharSet::of('\t');
      case 'n':
        return CharSet::of('\n');
      case 'r':
        return CharSet::of('\r');
      case 'f':
        return CharSet::of('\f');
      case 'v':
        return CharSet::of('\v');
      case '0':
        return CharSet::of(0);
      case 'c': {
        const char32_t letter = take_char();
        if (letter < 'A' || (letter > 'Z' && letter < 'a') || letter > 'z') {
          invalid("\\c needs a letter");
        }
        return CharSet::of(letter % 32);
      }
      case 'x':
        return CharSet::of(hex_digits(2));
      case 'u':
        return unicode_escape();
      case 'p':
      case 'P':
        return property(c == 'P');
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter || c >= 0x80) {
      std::string name = "the escape \\";
      append_utf8(name, c);
      refuse(name);
    }
    return CharSet::of(c);
  }

  char32_t hex_digits(int count) {
    char32_t value = 0;
    for (int i = 0; i < count; ++i) value = value * 16 + hex_digit();
    return value;
  }

  char32_t hex_digit() {
    const char32_t c = take_char();
    if (c >= '0' && c <= '9') return c - '0';
    const char32_t lower = c | 0x20;
    if (c < 0x80 && lower >= 'a' && lower <= 'f') return lower - 'a' + 10;
    invalid("expected a hexadecimal digit");
  }

  CharSet unicode_escape() {
    char32_t value = 0;
    if (take("{")) {
      while (!take("}")) {
        value = value * 16 + hex_digit();
        if (value > kLastChar) invalid("\\u{...} is above 10FFFF");
      }
      return CharSet::of(value);
    }
    value = hex_digits(4);
    if (value >= 0xD800 && value <= 0xDBFF && take("\\u")) {
      const char32_t low = hex_digits(4);
      if (low < 0xDC00 || low > 0xDFFF) invalid("a surrogate pair is incomplete");
      value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
    }
    if (value >= 0xD800 && value <= 0xDFFF) invalid("\\u names half of a surrogate pair");
    return CharSet::of(value);
  }

  CharSet property(bool negated) {
    std::string name;
    if (take("{")) {
      const std::size_t close = rest().find('}');
      constexpr std::size_t kLongestName = 40;
      if (close == std::string_view::npos || close > kLongestName) invalid("\\p{ has no end");
      name = rest().substr(0, close);
      position_ += close + 1;
    } else {
      name = rest().substr(0, 1);
      take_char();
    }
    const bool plain = std::ranges::all_of(name, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '=' || c == '^';
    });
    if (!plain || name.empty()) invalid("\\p needs the name of a property");
    // ECMA writes General_Category=L and Script=Greek.
    if (const std::size_t equals = name.find('='); equals != std::string::npos) {
      name = name.substr(equals + 1);
    }
    static const std::map<std::string, std::string, std::less<>> kLongNames = {
        {"Letter", "L"},
        {"Mark", "M"},
        {"Number", "N"},
        {"Punctuation", "P"},
        {"Symbol", "S"},
        {"Separator", "Z"},
        {"Other", "C"},
        {"Lowercase_Letter", "Ll"},
        {"Uppercase_Letter", "Lu"},
        {"Decimal_Number", "Nd"},
        {"digit", "Nd"}};
    if (const auto found = kLongNames.find(name); found != kLongNames.end()) name = found->second;
    try {
      const CharSet set = property_set("\\p{" + name + "}");
      return negated ? set.complement() : set;
    } catch (const Error&) {
      refuse("the property \\p{" + name + "}");
    }
  }

  std::string_view pattern_;
  std::size_t position_ = 0;
  int depth_ = 0;
};

class NfaBuilder {
 public:
  CharNfa build(const Node& root, RegexMatch match) {
    nfa_.start = nfa_.add_state();
    nfa_.accept = nfa_.add_state();
    if (match == RegexMatch::kWhole) {
      add(root, nfa_.start, nfa_.accept);
      return std::move(nfa_);
    }
    const int begin = nfa_.add_state();
    const int end = nfa_.add_state();
    nfa_.add_jump(nfa_.start, begin);
    add_any(begin);
    add(root, begin, end);
    add_any(end);
    nfa_.add_jump(end, nfa_.accept);
    return std::move(nfa_);
  }

 private:
  // A state of its own, so that an anchor in front of it is not passed again after a character.
  void add_any(int state) {
    const int loop = nfa_.add_state();
    nfa_.add_edge(state, CharSet::all(), loop);
    nfa_.add_jump(loop, state);
  }

  void add(const Node& node, int from, int to) {
    switch (node.kind) {
      case Node::Kind::kSet:
        nfa_.add_edge(from, node.set, to);
        break;
      case Node::Kind::kBegin:
        nfa_.add_jump(from, to, CharNfa::Condition::kBegin);
        break;
      case Node::Kind::kEnd:
        nfa_.add_jump(from, to, CharNfa::Condition::kEnd);
        break;
      case Node::Kind::kChoice:
        for (const NodePtr& part : node.parts) add(*part, from, to);
        break;
      case Node::Kind::kSequence:
        for (const NodePtr& part : node.parts) {
          const int next = nfa_.add_state();
          add(*part, from, next);
          from = next;
        }
        nfa_.add_jump(from, to);
        break;
      case Node::Kind::kRepeat:
        add_repeat(node, from, to);
        break;
    }
  }

  void add_repeat(const Node& node, int from, int to) {
    const Node& part = *node.parts.front();
    for (std::int64_t i = 0; i < node.min; ++i) {
      const int next = nfa_.add_state();
      add(part, from, next);
      from = next;
    }
    if (node.max == kUnbounded) {
      const int loop = nfa_.add_state();
      nfa_.add_jump(from, loop);
      add(part, loop, loop);
      nfa_.add_jump(loop, to);
      return;
    }
    nfa_.add_jump(from, to);
    for (std::int64_t i = node.min; i < node.max; ++i) {
      const int next = nfa_.add_state();
      add(part, from, next);
      nfa_.add_jump(next, to);
      from = next;
    }
  }

  CharNfa nfa_;
};

}  // namespace

CharAutomaton regex_automaton(std::string_view pattern, RegexMatch match) {
  constexpr std::size_t kMaxBytes = 32 << 10;
  if (pattern.size() > kMaxBytes) {
    throw Error("a regex has {} bytes; at most {} are allowed", pattern.size(), kMaxBytes);
  }
  const NodePtr root = Parser(pattern).parse();
  return determinize(NfaBuilder().build(*root, match));
}

}  // namespace quern::grammar
