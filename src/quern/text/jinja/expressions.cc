// Evaluation of expressions (see ast.h).
#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"
#include "quern/text/jinja/text_tools.h"
#include "quern/text/utf8.h"

namespace quern::jinja {
namespace {

constexpr Int kMaxRepeat = 1 << 24;

Int checked(std::string_view op, Int a, Int b) {
  Int result = 0;
  bool overflow = false;
  if (op == "+")
    overflow = __builtin_add_overflow(a, b, &result);
  else if (op == "-")
    overflow = __builtin_sub_overflow(a, b, &result);
  else
    overflow = __builtin_mul_overflow(a, b, &result);
  if (overflow) throw Error("integer overflow in '{}'", op);
  return result;
}

// Python rounds the quotient down, and the remainder has the divisor's sign.
Int floor_divide(Int a, Int b) {
  if (b == -1) return checked("-", 0, a);
  const Int quotient = a / b;
  return (a % b != 0 && ((a < 0) != (b < 0))) ? quotient - 1 : quotient;
}

Value integer_power(Int base, Int exponent) {
  if (exponent < 0) return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0) result = checked("*", result, base);
    exponent >>= 1;
    if (exponent > 0 && base != 0 && base != 1) base = checked("*", base, base);
  }
  return result;
}

Value on_integers(std::string_view op, Int a, Int b) {
  if (op == "+" || op == "-" || op == "*") return checked(op, a, b);
  if (op == "**") return integer_power(a, b);
  if (b == 0) throw Error("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (op == "//") return floor_divide(a, b);
  return b == -1 ? Int{0} : a - floor_divide(a, b) * b;
}

Value on_floats(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return std::pow(a, b);
  if (b == 0) throw Error("float division by zero");
  if (op == "/") return a / b;
  double rest = std::fmod(a, b);
  if (rest != 0 && ((rest < 0) != (b < 0))) rest += b;
  if (op == "%") return rest;
  const double quotient = (a - rest) / b;
  return std::floor(quotient + 0.5);
}

// The indices that Python's slice(start, stop, step).indices(size) walks.
struct Indices {
  Int from;
  Int by;
  std::size_t count;
  std::size_t operator[](std::size_t i) const {
    return static_cast<std::size_t>(from + static_cast<Int>(i) * by);
  }
};

Indices slice_indices(Int size, const Value& start, const Value& stop, const Value& step) {
  const auto whole = [](const Value& v, Int fallback) {
    if (v.is_none()) return fallback;
    if (!v.is_int()) throw Error("slice indices must be integers or None");
    return v.as_int();
  };
  const Int by = whole(step, 1);
  if (by == 0) throw Error("slice step cannot be zero");
  const Int low = by > 0 ? Int{0} : Int{-1};
  const Int high = by > 0 ? size : size - 1;
  const auto bounded = [&](const Value& v, Int fallback) {
    Int at = whole(v, fallback);
    if (!v.is_none() && at < 0) at += size;
    return std::clamp(at, low, high);
  };
  const Int from = bounded(start, by > 0 ? low : high);
  const Int to = bounded(stop, by > 0 ? high : low);
  const Int span = by > 0 ? to - from : from - to;
  if (span <= 0) return {from, by, 0};
  const Int stride = by > size || by < -size ? size : (by > 0 ? by : -by);
  return {from, by, static_cast<std::size_t>((span - 1) / stride + 1)};
}

// The bytes of `count` characters from character `first` on.
std::string_view character_range(std::string_view text, std::size_t first, std::size_t count) {
  const auto skip = [](std::string_view from, std::size_t number) {
    std::size_t at = 0;
    for (; number > 0; --number) at += scan_utf8(from.substr(at)).length;
    return at;
  };
  text.remove_prefix(skip(text, first));
  return text.substr(0, skip(text, count));
}

bool is_kind(const Value& value, Sequence::Kind kind) {
  return value.sequence() != nullptr && value.sequence()->kind == kind;
}

std::string python_format(Interpreter& in, const std::string& pattern, const Value& argument) {
  CallArgs args;
  args.positional =
      is_kind(argument, Sequence::Kind::kTuple) ? argument.sequence()->items : Values{argument};
  return in.filter("format", Value(pattern), args).str();
}

}  // namespace

CallArgs Arguments::eval(Interpreter& in) const {
  CallArgs args;
  for (const ExprPtr& expr : positional) args.positional.push_back(expr->eval(in));
  for (const auto& [name, expr] : keyword) args.keyword.emplace_back(name, expr->eval(in));
  if (star) {
    for (Value& value : in.iterate(star->eval(in))) args.positional.push_back(std::move(value));
  }
  if (double_star) {
    const Value value = double_star->eval(in);
    if (value.dict() == nullptr) throw Error("argument after ** must be a mapping");
    in.step(value.dict()->items().size());
    for (const auto& [key, item] : value.dict()->items())
      args.keyword.emplace_back(key.str(), item);
  }
  return args;
}

Value Name::eval(Interpreter& in) const {
  in.step();
  return in.lookup(name);
}

Value ListExpr::eval(Interpreter& in) const {
  Values values;
  for (const ExprPtr& item : items) values.push_back(item->eval(in));
  in.step(values.size());
  return is_tuple ? Value::tuple(std::move(values)) : Value::list(std::move(values));
}

Value DictExpr::eval(Interpreter& in) const {
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : items) dict->set(key->eval(in), value->eval(in));
  in.step(items.size());
  return std::shared_ptr<const Dict>(std::move(dict));
}

Value UnaryExpr::eval(Interpreter& in) const {
  in.step();
  const Value value = operand->eval(in);
  if (op == Op::kNot) return !in.truth(value);
  in.defined(value);
  if (!value.is_number())
    throw Error("bad operand type for unary {}: '{}'", op == Op::kPlus ? '+' : '-',
                value.type_name());
  const bool minus = op == Op::kNegate;
  if (value.is_float()) return minus ? -value.as_double() : value.as_double();
  return minus ? checked("-", 0, value.as_int()) : value.as_int();
}

Value LogicExpr::eval(Interpreter& in) const {
  in.step();
  Value value = left->eval(in);
  return in.truth(value) == is_and ? right->eval(in) : value;
}

Value ArithmeticExpr::eval(Interpreter& in) const {
  const Value a = left->eval(in);
  const Value b = right->eval(in);
  in.at_line(line);
  return in.arithmetic(op, a, b);
}

Value Interpreter::arithmetic(std::string_view op, const Value& a, const Value& b) {
  step();
  defined(a);
  defined(b);
  if (a.is_int() && b.is_int()) return on_integers(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return on_floats(op, a.as_double(), b.as_double());
  if (op == "+" && a.text() != nullptr && b.text() != nullptr) {
    check_size(a.bytes().size() + b.bytes().size());
    return Value(a.bytes() + b.bytes());
  }
  for (const auto kind : {Sequence::Kind::kList, Sequence::Kind::kTuple}) {
    if (op != "+" || !is_kind(a, kind) || !is_kind(b, kind)) continue;
    step(a.sequence()->items.size() + b.sequence()->items.size());
    Values items = a.sequence()->items;
    items.insert(items.end(), b.sequence()->items.begin(), b.sequence()->items.end());
    return Value::sequence(kind, std::move(items));
  }
  if (op == "*" && (a.is_int() || b.is_int())) {
    const Value& repeated = a.is_int() ? b : a;
    const Int count = std::max(Int{0}, (a.is_int() ? a : b).as_int());
    const bool is_list =
        is_kind(repeated, Sequence::Kind::kList) || is_kind(repeated, Sequence::Kind::kTuple);
    const std::size_t size = repeated.text() != nullptr ? repeated.bytes().size()
                             : is_list                  ? repeated.sequence()->items.size()
                                                        : 0;
    if (static_cast<Int>(size) * std::min(count, kMaxRepeat + 1) > kMaxRepeat ||
        count > kMaxRepeat) {
      throw Error("a repetition of more than {} items", static_cast<std::int64_t>(kMaxRepeat));
    }
    const auto times = static_cast<std::size_t>(count);
    step(is_list ? size * times : times / 8);
    if (repeated.text() != nullptr) {
      std::string text;
      for (std::size_t i = 0; i < times; ++i) text += repeated.bytes();
      return Value(std::move(text));
    }
    if (is_list) {
      Values items;
      for (std::size_t i = 0; i < times; ++i) {
        items.insert(items.end(), repeated.sequence()->items.begin(),
                     repeated.sequence()->items.end());
      }
      return Value::sequence(repeated.sequence()->kind, std::move(items));
    }
  }
  if (op == "%" && a.text() != nullptr) return Value(python_format(*this, a.bytes(), b));
  throw Error("unsupported operand type(s) for {}: '{}' and '{}'", op, a.type_name(),
              b.type_name());
}

bool Interpreter::contains(const Value& container, const Value& item) {
  if (container.undefined() != nullptr) return iterate(container).size() > 0;
  if (container.text() != nullptr) {
    if (item.text() == nullptr) {
      throw Error("'in <string>' requires string as left operand, not {}", item.type_name());
    }
    return find_bytes(container.bytes(), item.bytes()) != std::string::npos;
  }
  if (container.dict() != nullptr) return container.dict()->find(item) != nullptr;
  const Values items = iterate(container);
  return std::find(items.begin(), items.end(), item) != items.end();
}

Value CompareExpr::eval(Interpreter& in) const {
  Value left = first->eval(in);
  for (const auto& [op, expr] : rest) {
    in.step();
    Value right = expr->eval(in);
    in.at_line(line);
    if (in.strict()) {
      in.defined(left);
      in.defined(right);
    }
    bool holds = false;
    if (op == "==")
      holds = left == right;
    else if (op == "!=")
      holds = !(left == right);
    else if (op == "in")
      holds = in.contains(right, left);
    else if (op == "not in")
      holds = !in.contains(right, left);
    else {
      const bool nan = (left.is_float() && std::isnan(left.as_double())) ||
                       (right.is_float() && std::isnan(right.as_double()));
      const int order = compare(in.defined(left), in.defined(right));
      if (op == "<")
        holds = order < 0;
      else if (op == "<=")
        holds = order <= 0;
      else if (op == ">")
        holds = order > 0;
      else
        holds = order >= 0;
      holds = holds && !nan;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value ConcatExpr::eval(Interpreter& in) const {
  std::string text;
  for (const ExprPtr& part : parts) {
    text += in.text_of(part->eval(in));
    in.check_size(text.size());
  }
  in.step();
  return Value(std::move(text));
}

Value ConditionExpr::eval(Interpreter& in) const {
  in.step();
  if (in.truth(test->eval(in))) return then->eval(in);
  if (otherwise) return otherwise->eval(in);
  return Value::undefined(
      "the inline if-expression evaluated to false and no else section was defined");
}

Value GetAttr::eval(Interpreter& in) const {
  in.step();
  const Value value = object->eval(in);
  in.at_line(line);
  return in.get_attribute(value, name);
}

Value GetItem::eval(Interpreter& in) const {
  in.step();
  const Value value = object->eval(in);
  const Value index = key->eval(in);
  in.at_line(line);
  return in.get_item(value, index);
}

Value SliceExpr::eval(Interpreter& in) const {
  const auto value = [&](const ExprPtr& expr) { return expr ? expr->eval(in) : Value(); };
  const Value sliced = object->eval(in);
  return in.slice(sliced, value(start), value(stop), value(step));
}

Value Interpreter::slice(const Value& object, const Value& start, const Value& stop,
                         const Value& step_by) {
  defined(object);
  const Sequence* s = object.sequence();
  if (s != nullptr && s->kind <= Sequence::Kind::kRange) {
    const Indices at = slice_indices(static_cast<Int>(s->items.size()), start, stop, step_by);
    step(at.count);
    Values items;
    for (std::size_t i = 0; i < at.count; ++i) items.push_back(s->items[at[i]]);
    return Value::sequence(s->kind == Sequence::Kind::kRange ? Sequence::Kind::kList : s->kind,
                           std::move(items));
  }
  const Text* text = object.text();
  if (text == nullptr) {
    return Value::undefined(fmt::format("'{}' object cannot be sliced", object.type_name()));
  }
  const Indices at = slice_indices(static_cast<Int>(text->characters), start, stop, step_by);
  if (at.count == 0) return Value("");
  step(scan_steps(at.count));
  const bool ascii = text->characters == text->bytes.size();
  if (ascii && at.by == 1) return Value(text->bytes.substr(at[0], at.count));
  std::string out;
  if (ascii) {
    for (std::size_t i = 0; i < at.count; ++i) out += text->bytes[at[i]];
    return Value(std::move(out));
  }
  if (at.by == 1 || at.count == 1) {
    step(scan_steps(at[0]));
    return Value(character_range(text->bytes, at[0], at.count));
  }
  step(scan_steps(text->characters));
  const Held scratch((text->characters + 1) * sizeof(std::size_t));
  std::vector<std::size_t> offsets;  // of each character, and the end
  for (std::size_t at = 0; at < text->bytes.size();
       at += scan_utf8(std::string_view(text->bytes).substr(at)).length) {
    offsets.push_back(at);
  }
  offsets.push_back(text->bytes.size());
  for (std::size_t i = 0; i < at.count; ++i)
    out.append(text->bytes, offsets[at[i]], offsets[at[i] + 1] - offsets[at[i]]);
  return Value(std::move(out));
}

Value CallExpr::eval(Interpreter& in) const {
  const Value function = callee->eval(in);
  CallArgs args = arguments.eval(in);
  in.at_line(line);
  return in.call(function, args);
}

Value FilterExpr::eval(Interpreter& in) const {
  const Value value = input ? input->eval(in) : in.block_text();
  CallArgs args = arguments.eval(in);
  in.at_line(line);
  return in.filter(name, value, args);
}

Value TestExpr::eval(Interpreter& in) const {
  const Value value = input->eval(in);
  CallArgs args = arguments.eval(in);
  in.at_line(line);
  return in.test(name, value, args);
}

}  // namespace quern::jinja
