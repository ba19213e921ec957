// Values of the template language: Python's types as far as templates see them.
// Must never be changed once built, but for namespaces and the position of generators, and never
// nest deeper than kMaxValueDepth: destroying a value is recursive.
// Proved by tests/text/jinja_golden_test.cc and jinja_limits_test.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "quern/base/json.h"
#include "quern/text/jinja/budget.h"

namespace quern::jinja {

class Interpreter;
class Value;
using Int = __int128_t;  // holds every JSON integer; beyond it arithmetic is an error
using Values = std::vector<Value>;

constexpr int kMaxValueDepth = 1000;
// One more than the deepest of the values; throws when that is too deep.
int depth_above(const Values& values);

struct Undefined {
  explicit Undefined(std::string text);
  std::string message;  // "'x' is undefined"
  Held held;
};

struct Text {
  explicit Text(std::string text);
  std::string bytes;  // valid UTF-8
  std::size_t characters;
  Held held;
};

struct Sequence {
  enum class Kind { kList, kTuple, kRange, kKeys, kValues, kItems, kGenerator };
  Sequence(Kind what, Values values, std::string range);
  Kind kind;
  Values items;
  std::string repr;               // of a range
  mutable std::size_t taken = 0;  // items a generator has given away
  int depth;
  Held held;
};

class Dict;
struct Namespace;

// Macros, bound methods, global functions and the loop variable of a recursive loop.
struct CallArgs;
struct Callable {
  virtual ~Callable() = default;
  virtual Value call(Interpreter& interpreter, CallArgs& args) = 0;
  // Attributes (loop.index, macro.name); undefined by default.
  virtual Value attribute(std::string_view name);
  virtual std::string repr() const = 0;
  int depth = 0;  // above the values that it holds
  Held held{128};
};

class Value {
 public:
  using Data = std::variant<std::monostate, std::shared_ptr<const Undefined>, bool, Int, double,
                            std::shared_ptr<const Text>, std::shared_ptr<const Sequence>,
                            std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                            std::shared_ptr<Callable>>;

  Value() = default;  // none
  Value(bool v) : data_(v) {}
  Value(Int v) : data_(v) {}
  Value(int v) : data_(Int{v}) {}
  Value(std::size_t v) : data_(static_cast<Int>(v)) {}
  Value(double v) : data_(v) {}
  Value(std::string v);
  Value(std::string_view v) : Value(std::string(v)) {}
  Value(const char* v) : Value(std::string(v)) {}
  Value(std::shared_ptr<const Dict> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Namespace> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Callable> v) : data_(std::move(v)) {}
  static Value undefined(std::string message);
  static Value sequence(Sequence::Kind kind, Values items, std::string repr = {});
  static Value list(Values items) { return sequence(Sequence::Kind::kList, std::move(items)); }
  static Value tuple(Values items) { return sequence(Sequence::Kind::kTuple, std::move(items)); }
  static Value from_json(const Json& json);

  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  // Python's bool is an int: so is it here.
  bool is_int() const { return std::holds_alternative<Int>(data_) || is_bool(); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_int() || is_float(); }
  const Undefined* undefined() const { return pointer<const Undefined>(); }
  const Text* text() const { return pointer<const Text>(); }
  const Sequence* sequence() const { return pointer<const Sequence>(); }
  const Dict* dict() const { return pointer<const Dict>(); }
  Namespace* ns() const { return pointer<Namespace>(); }
  Callable* callable() const { return pointer<Callable>(); }

  Int as_int() const { return is_bool() ? Int{std::get<bool>(data_)} : std::get<Int>(data_); }
  double as_double() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(as_int());
  }
  const std::string& bytes() const { return text()->bytes; }

  // Levels of containers; a namespace is none, as the interpreter destroys them one by one.
  int depth() const;
  // Python's type name ("str", "dict").
  std::string_view type_name() const;
  bool truthy() const;
  std::string str() const;   // what printing gives
  std::string repr() const;  // as an element of a list
  // Python's ==.
  friend bool operator==(const Value& a, const Value& b);
  // Identity of heap objects (`is sameas`).
  bool same_as(const Value& other) const;

 private:
  template <typename T>
  T* pointer() const {
    const auto* held = std::get_if<std::shared_ptr<T>>(&data_);
    return held == nullptr ? nullptr : held->get();
  }
  explicit Value(Data data) : data_(std::move(data)) {}
  Data data_;
};

// Insertion-ordered; keys are compared as Python does (1 == 1.0 == True).
class Dict {
 public:
  void set(Value key, Value value);
  const Value* find(const Value& key) const;
  const std::vector<std::pair<Value, Value>>& items() const { return items_; }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<Value, Value>> items_;
  std::unordered_map<std::string, std::size_t> index_;
  int depth_ = 1;
  Held held_{128};
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  Held held{128};
  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

struct CallArgs {
  Values positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// -1, 0, 1; throws when the types have no order.
int compare(const Value& a, const Value& b);
std::string float_repr(double value);
std::string int_text(Int value);

struct JsonStyle {
  int indent = -1;  // -1: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};
// json.dumps of the value; throws for what JSON cannot hold.
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace quern::jinja
