// See value.h.
#include "quern/text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "quern/base/error.h"
#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern::jinja {
namespace {

constexpr int kMaxReprDepth = 100;
constexpr std::size_t kObjectBytes = 96;  // about what an object takes beside its contents
constexpr std::size_t kMaxMessageBytes = 500;

int checked_depth(int depth) {
  if (depth > kMaxValueDepth) throw Error("a value of more than {} nested levels", kMaxValueDepth);
  return depth;
}

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

// Values nest up to kMaxValueDepth: what goes through them costs more stack than destroying them.
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

// One text that all levels append to. Lists may share their items, so that a few of them stand for
// any number of printed ones: each printed item is paid for.
class ReprWriter {
 public:
  void write(const Value& value) {
    spend(1);
    if (value.text() != nullptr) {
      spend(scan_steps(value.bytes().size()));
      out_ += text_repr(value.bytes());
    } else if (value.sequence() != nullptr) {
      sequence(*value.sequence());
    } else if (value.dict() != nullptr) {
      dict(*value.dict());
    } else {
      out_ += value.repr();
    }
    check_text_size(out_.size());
  }
  std::string take() { return std::move(out_); }

 private:
  void sequence(const Sequence& sequence) {
    using Kind = Sequence::Kind;
    switch (sequence.kind) {
      case Kind::kList:
        return items("[", sequence.items, "]");
      case Kind::kTuple:
        return items("(", sequence.items, sequence.items.size() == 1 ? ",)" : ")");
      case Kind::kRange:
        out_ += sequence.repr;
        return;
      case Kind::kKeys:
        return items("dict_keys([", sequence.items, "])");
      case Kind::kValues:
        return items("dict_values([", sequence.items, "])");
      case Kind::kItems:
        return items("dict_items([", sequence.items, "])");
      case Kind::kGenerator:
        out_ += "<generator object>";
    }
  }

  void items(std::string_view open, const Values& values, std::string_view close) {
    const DepthGuard guard;
    out_ += open;
    std::string_view separator;
    for (const Value& value : values) {
      out_ += std::exchange(separator, ", ");
      write(value);
    }
    out_ += close;
  }

  void dict(const Dict& dict) {
    const DepthGuard guard;
    out_ += '{';
    std::string_view separator;
    for (const auto& [key, value] : dict.items()) {
      out_ += std::exchange(separator, ", ");
      write(key);
      out_ += ": ";
      write(value);
    }
    out_ += '}';
  }

  std::string out_;
};

std::string namespace_repr(const Namespace& ns) {
  std::string out = "<Namespace {";
  std::string_view separator;
  for (const auto& item : ns.attributes) {
    spend(1 + scan_steps(item.first.size()));
    out += std::exchange(separator, ", ");
    out += text_repr(item.first) + ": ...";
    check_text_size(out.size());
  }
  return out + "}>";
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

// What makes two keys the same. A tuple's items are preceded by their sizes.
void append_hash_key(std::string& out, const Value& key) {
  spend(1);
  if (key.text() != nullptr) {
    spend(copy_steps(key.bytes().size()));
    out += 's' + key.bytes();
  } else if (key.is_int()) {
    out += 'n' + int_text(key.as_int());
  } else if (key.is_float()) {
    const double v = key.as_double();
    const bool whole = v == std::trunc(v) && std::abs(v) < 1e18;
    out += 'n' + (whole ? int_text(static_cast<Int>(v)) : float_repr(v));
  } else if (key.is_none()) {
    out += "none";
  } else if (const Sequence* s = key.sequence();
             s != nullptr && s->kind == Sequence::Kind::kTuple) {
    const DepthGuard guard;
    out += 't';
    for (const Value& item : s->items) {
      std::string one;
      append_hash_key(one, item);
      spend(copy_steps(one.size()));
      out += fmt::format("{}:", one.size()) + one;
    }
  } else {
    throw Error("unhashable type: '{}'", key.type_name());
  }
  check_text_size(out.size());
}

std::string hash_key(const Value& key) {
  std::string out;
  append_hash_key(out, key);
  return out;
}

template <typename T>
int three_way(const T& a, const T& b) {
  return a < b ? -1 : (b < a ? 1 : 0);
}

}  // namespace

Value Callable::attribute(std::string_view name) {
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", repr(), name));
}

int depth_above(const Values& values) {
  int deepest = 0;
  for (const Value& value : values) deepest = std::max(deepest, value.depth());
  return checked_depth(deepest + 1);
}

Undefined::Undefined(std::string text)
    : message(std::move(text)), held(kObjectBytes + kMaxMessageBytes) {
  if (message.size() <= kMaxMessageBytes) return;
  std::size_t end = kMaxMessageBytes;  // of a whole character
  while ((static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  message = message.substr(0, end) + "...";
}

Text::Text(std::string text)
    : bytes(std::move(text)), characters(0), held(kObjectBytes + bytes.capacity()) {
  check_text_size(bytes.size());
  spend(copy_steps(bytes.size()));
  characters = count_utf8(bytes);
}

Sequence::Sequence(Kind what, Values values, std::string range)
    : kind(what),
      items(std::move(values)),
      repr(std::move(range)),
      depth(depth_above(items)),
      held(kObjectBytes + items.capacity() * sizeof(Value)) {
  spend(1 + items.size() / 8);
}

Value::Value(std::string v) : data_(std::make_shared<const Text>(std::move(v))) {}

Value Value::undefined(std::string message) {
  return Value(Data(std::make_shared<const Undefined>(std::move(message))));
}

Value Value::sequence(Sequence::Kind kind, Values items, std::string repr) {
  return Value(Data(std::make_shared<const Sequence>(kind, std::move(items), std::move(repr))));
}

int Value::depth() const {
  if (const Sequence* s = sequence()) return s->depth;
  if (dict() != nullptr) return dict()->depth();
  return callable() != nullptr ? callable()->depth : 0;
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
  if (ns() != nullptr) return namespace_repr(*ns());
  if (callable() != nullptr) return callable()->repr();
  ReprWriter writer;
  writer.write(*this);
  return writer.take();
}

bool operator==(const Value& a, const Value& b) {
  spend(1);
  if (a.is_number() && b.is_number()) {
    if (a.is_int() && b.is_int()) return a.as_int() == b.as_int();
    return a.as_double() == b.as_double();
  }
  if (a.text() != nullptr && b.text() != nullptr) {
    if (a.bytes().size() != b.bytes().size()) return false;
    spend(copy_steps(a.bytes().size()));
    return a.bytes() == b.bytes();
  }
  if (a.sequence() != nullptr && b.sequence() != nullptr) {
    return equal_sequences(*a.sequence(), *b.sequence());
  }
  if (a.dict() != nullptr && b.dict() != nullptr) return equal_dicts(*a.dict(), *b.dict());
  if (a.undefined() != nullptr && b.undefined() != nullptr) return true;
  return a.same_as(b);
}

bool Value::same_as(const Value& other) const { return data_ == other.data_; }

int compare(const Value& a, const Value& b) {
  spend(1);
  if (a.is_int() && b.is_int()) return three_way(a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return three_way(a.as_double(), b.as_double());
  if (a.text() != nullptr && b.text() != nullptr) {
    spend(copy_steps(std::min(a.bytes().size(), b.bytes().size())));
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

void Dict::set(Value key, Value value) {
  std::string hashed = hash_key(key);
  depth_ = checked_depth(std::max({depth_, key.depth() + 1, value.depth() + 1}));
  const auto found = index_.find(hashed);
  if (found != index_.end()) {
    items_[found->second].second = std::move(value);
    return;
  }
  held_.grow(kObjectBytes + hashed.size() + 2 * sizeof(Value));
  index_.emplace(std::move(hashed), items_.size());
  items_.emplace_back(std::move(key), std::move(value));
}

const Value* Dict::find(const Value& key) const {
  const auto it = index_.find(hash_key(key));
  return it == index_.end() ? nullptr : &items_[it->second].second;
}

Value* Namespace::find(std::string_view name) {
  spend(attributes.size() / 8);
  for (auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::set(std::string_view name, Value value) {
  if (Value* slot = find(name)) {
    *slot = std::move(value);
  } else {
    held.grow(kObjectBytes + name.size());
    attributes.emplace_back(name, std::move(value));
  }
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
