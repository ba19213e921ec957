// See value.h.
#include "quern/text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "quern/base/error.h"
#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern::jinja {
namespace {

constexpr int kMaxReprDepth = 100;

std::string text_repr(std::string_view text) {
  const bool use_double = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char32_t quote = use_double ? U'"' : U'\'';
  std::string out(1, static_cast<char>(quote));
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    const char32_t c = scan.code_point;
    if (c == quote || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (is_printable(c)) {
      out += text.substr(0, scan.length);
    } else {
      const auto code = static_cast<std::uint32_t>(c);
      out += c < 0x100     ? fmt::format("\\x{:02x}", code)
             : c < 0x10000 ? fmt::format("\\u{:04x}", code)
                           : fmt::format("\\U{:08x}", code);
    }
    text.remove_prefix(scan.length);
  }
  out += static_cast<char>(quote);
  return out;
}

template <typename Range, typename Fn>
std::string join(const Range& range, Fn&& text_of) {
  std::string out;
  for (const auto& item : range) {
    if (!out.empty()) out += ", ";
    out += text_of(item);
  }
  return out;
}

// Values nest as deep as templates build them: bounded here, where it would cost stack.
class DepthGuard {
 public:
  DepthGuard() {
    if (++depth_ > kMaxReprDepth) {
      --depth_;
      throw Error("a value is nested deeper than {} levels", kMaxReprDepth);
    }
  }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;
  ~DepthGuard() { --depth_; }

 private:
  static thread_local int depth_;
};
thread_local int DepthGuard::depth_ = 0;

std::string sequence_repr(const Sequence& sequence) {
  using Kind = Sequence::Kind;
  const DepthGuard guard;
  const std::string items = join(sequence.items, [](const Value& v) { return v.repr(); });
  switch (sequence.kind) {
    case Kind::kList:
      return fmt::format("[{}]", items);
    case Kind::kTuple:
      return fmt::format("({}{})", items, sequence.items.size() == 1 ? "," : "");
    case Kind::kRange:
      return sequence.repr;
    case Kind::kKeys:
      return fmt::format("dict_keys([{}])", items);
    case Kind::kValues:
      return fmt::format("dict_values([{}])", items);
    case Kind::kItems:
      return fmt::format("dict_items([{}])", items);
    case Kind::kGenerator:
      return "<generator object>";
  }
  return {};
}

std::string dict_repr(const Dict& dict) {
  const DepthGuard guard;
  return fmt::format("{{{}}}", join(dict.items(), [](const auto& item) {
                       return fmt::format("{}: {}", item.first.repr(), item.second.repr());
                     }));
}

bool equal_sequences(const Sequence& a, const Sequence& b) {
  const DepthGuard guard;
  return a.kind == b.kind && a.items == b.items;
}

bool equal_dicts(const Dict& a, const Dict& b) {
  const DepthGuard guard;
  return a.items().size() == b.items().size() &&
         std::all_of(a.items().begin(), a.items().end(), [&](const auto& item) {
           const Value* other = b.find(item.first);
           return other != nullptr && *other == item.second;
         });
}

template <typename T>
int three_way(const T& a, const T& b) {
  return a < b ? -1 : (b < a ? 1 : 0);
}

}  // namespace

Value Callable::attribute(std::string_view name) {
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", repr(), name));
}

Value::Value(std::string v) {
  const std::size_t characters = count_utf8(v);
  data_ = std::make_shared<const Text>(Text{std::move(v), characters});
}

Value Value::undefined(std::string message) {
  return Value(Data(std::make_shared<const Undefined>(Undefined{std::move(message)})));
}

Value Value::sequence(Sequence::Kind kind, Values items, std::string repr) {
  return Value(
      Data(std::make_shared<const Sequence>(Sequence{kind, std::move(items), std::move(repr)})));
}

Value Value::from_json(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return Int{json.get<std::int64_t>()};
    case Json::value_t::number_unsigned:
      return Int{json.get<std::uint64_t>()};
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return json.get_ref<const std::string&>();
    case Json::value_t::array: {
      Values items;
      for (const Json& item : json) items.push_back(from_json(item));
      return list(std::move(items));
    }
    case Json::value_t::object: {
      auto dict = std::make_shared<Dict>();
      for (const auto& [key, item] : json.items()) dict->set(key, from_json(item));
      return std::shared_ptr<const Dict>(std::move(dict));
    }
    default:
      return {};
  }
}

std::string_view Value::type_name() const {
  if (is_none()) return "NoneType";
  if (undefined() != nullptr) return "Undefined";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (text() != nullptr) return "str";
  if (dict() != nullptr) return "dict";
  if (ns() != nullptr) return "Namespace";
  if (callable() != nullptr) return "function";
  static constexpr std::string_view kNames[] = {
      "list", "tuple", "range", "dict_keys", "dict_values", "dict_items", "generator"};
  return kNames[static_cast<std::size_t>(sequence()->kind)];
}

bool Value::truthy() const {
  if (is_none() || undefined() != nullptr) return false;
  if (is_int()) return as_int() != 0;
  if (is_float()) return as_double() != 0;
  if (text() != nullptr) return !bytes().empty();
  if (dict() != nullptr) return !dict()->items().empty();
  if (const Sequence* s = sequence())
    return s->kind == Sequence::Kind::kGenerator || !s->items.empty();
  return true;
}

std::string Value::str() const {
  if (text() != nullptr) return bytes();
  return repr();
}

std::string Value::repr() const {
  if (is_none()) return "None";
  if (undefined() != nullptr) return "";
  if (is_bool()) return as_int() != 0 ? "True" : "False";
  if (is_int()) return int_text(as_int());
  if (is_float()) return float_repr(as_double());
  if (text() != nullptr) return text_repr(bytes());
  if (const Sequence* s = sequence()) return sequence_repr(*s);
  if (dict() != nullptr) return dict_repr(*dict());
  if (ns() != nullptr) {
    return fmt::format("<Namespace {{{}}}>", join(ns()->attributes, [](const auto& item) {
                         return fmt::format("{}: ...", text_repr(item.first));
                       }));
  }
  return callable()->repr();
}

bool operator==(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_int() && b.is_int()) return a.as_int() == b.as_int();
    return a.as_double() == b.as_double();
  }
  if (a.text() != nullptr && b.text() != nullptr) return a.bytes() == b.bytes();
  if (a.sequence() != nullptr && b.sequence() != nullptr) {
    return equal_sequences(*a.sequence(), *b.sequence());
  }
  if (a.dict() != nullptr && b.dict() != nullptr) return equal_dicts(*a.dict(), *b.dict());
  if (a.undefined() != nullptr && b.undefined() != nullptr) return true;
  return a.same_as(b);
}

bool Value::same_as(const Value& other) const { return data_ == other.data_; }

int compare(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int()) return three_way(a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return three_way(a.as_double(), b.as_double());
  if (a.text() != nullptr && b.text() != nullptr) {
    return three_way(a.bytes().compare(b.bytes()), 0);  // UTF-8 keeps the order of code points
  }
  const Sequence* left = a.sequence();
  const Sequence* right = b.sequence();
  const auto ordered = [](const Sequence* s) {
    return s != nullptr && (s->kind == Sequence::Kind::kList || s->kind == Sequence::Kind::kTuple);
  };
  if (ordered(left) && ordered(right) && left->kind == right->kind) {
    const DepthGuard guard;
    const std::size_t shared = std::min(left->items.size(), right->items.size());
    for (std::size_t i = 0; i < shared; ++i) {
      if (!(left->items[i] == right->items[i])) return compare(left->items[i], right->items[i]);
    }
    return three_way(left->items.size(), right->items.size());
  }
  throw Error("'{}' and '{}' have no order", a.type_name(), b.type_name());
}

std::string Dict::hash_key(const Value& key) {
  if (key.text() != nullptr) return "s" + key.bytes();
  if (key.is_int()) return "n" + int_text(key.as_int());
  if (key.is_float()) {
    const double v = key.as_double();
    if (v == std::trunc(v) && std::abs(v) < 1e18) return "n" + int_text(static_cast<Int>(v));
    return "n" + float_repr(v);
  }
  if (key.is_none()) return "none";
  if (const Sequence* s = key.sequence(); s != nullptr && s->kind == Sequence::Kind::kTuple) {
    std::string all = "t";
    for (const Value& item : s->items) {
      const std::string one = hash_key(item);
      all += fmt::format("{}:{}", one.size(), one);
    }
    return all;
  }
  throw Error("unhashable type: '{}'", key.type_name());
}

void Dict::set(Value key, Value value) {
  const auto [it, added] = index_.emplace(hash_key(key), items_.size());
  if (added)
    items_.emplace_back(std::move(key), std::move(value));
  else
    items_[it->second].second = std::move(value);
}

const Value* Dict::find(const Value& key) const {
  const auto it = index_.find(hash_key(key));
  return it == index_.end() ? nullptr : &items_[it->second].second;
}

Value* Namespace::find(std::string_view name) {
  for (auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::set(std::string_view name, Value value) {
  if (Value* slot = find(name))
    *slot = std::move(value);
  else
    attributes.emplace_back(name, std::move(value));
}

std::string int_text(Int value) {
  const bool negative = value < 0;
  auto rest = static_cast<__uint128_t>(value);
  if (negative) rest = ~rest + 1;
  std::string out;
  do {
    out += static_cast<char>('0' + static_cast<int>(rest % 10));
    rest /= 10;
  } while (rest != 0);
  if (negative) out += '-';
  std::reverse(out.begin(), out.end());
  return out;
}

// repr(float): shortest digits that read back, exponent form below 1e-4 and from 1e16.
std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const double size = std::abs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value, format);
  std::string out(buffer, end);
  if (fixed && out.find('.') == out.npos) out += ".0";
  return out;
}

}  // namespace quern::jinja
